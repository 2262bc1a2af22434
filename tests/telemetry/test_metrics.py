"""What Prometheus scrapes."""

from __future__ import annotations

import json
import urllib.error
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from modelfleet.telemetry.metrics import MetricsServer


def scrape(server: MetricsServer) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics") as answer:
        text = answer.read().decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_go_on_over_restarts(home):
    home.add_version(1, model='odd "name"\\')
    server = MetricsServer(home.layout, 0)
    assert scrape(server)[("mf_records_total", ())] == 0
    labels = (("model", 'odd "name"\\'), ("version", "1.0.0"))
    for life in (1, 2):
        home.write(*[home.record(1, latency_us=200) for _ in range(5)])
        home.write(home.record(1, status=503, latency_us=200))
        home.collector().close()
        found = scrape(server)
        assert found[("mf_requests_total", (("code", "200"), *labels))] == 5 * life
        assert found[("mf_requests_total", (("code", "503"), *labels))] == life
        assert found[("mf_records_total", ())] == 6 * life
        buckets = [
            (float(dict(key[1])["le"]), value)
            for key, value in found.items()
            if key[0] == "mf_request_duration_seconds_bucket"
        ]
        assert [value for bound, value in sorted(buckets) if bound < 0.0002] == [0]
        assert {value for bound, value in buckets if bound > 0.0002} == {5.0 * life}
        assert found[("mf_request_duration_seconds_count", labels)] == 5 * life
        assert found[("mf_request_duration_seconds_sum", labels)] == pytest.approx(
            0.001 * life, rel=0.1
        )
    assert found[("mf_collector_lag_seconds", ())] < 60
    server.close()


def test_health_says_whether_evidence_is_fresh(home):
    server = MetricsServer(home.layout, 0)
    address = f"http://127.0.0.1:{server.port}"
    with pytest.raises(urllib.error.HTTPError) as behind:
        urllib.request.urlopen(f"{address}/healthz")
    assert behind.value.code == 503
    collector = home.collector()
    collector.collect()
    with urllib.request.urlopen(f"{address}/healthz") as answer:
        assert json.load(answer)["status"] == "ok"
    with pytest.raises(urllib.error.HTTPError) as missing:
        urllib.request.urlopen(f"{address}/nothing")
    assert missing.value.code == 404
    collector.close()
    server.close()
