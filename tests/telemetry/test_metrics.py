"""What Prometheus scrapes."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer

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


GATEWAY = """\
envoy_http_downstream_rq_xx{envoy_response_code_class="2",envoy_http_conn_manager_prefix="gateway"} 7
envoy_modelfleet_refused{endpoint="",code="404",details="route_not_found"} 3
envoy_modelfleet_refused{endpoint="m1",code="401",details="jwt_authn_access_denied{Jwt_is_expired}"} 4
envoy_modelfleet_refused{endpoint="m1",code="500",details="via_upstream"} 99
envoy_modelfleet_refused{endpoint="m1",limit="overload"} 40
envoy_server_hot_restart_epoch{} 0
envoy_server_uptime{} 61
"""  # noqa: E501 - as Envoy writes it


class Envoy(ThreadingUnixStreamServer):
    """Answers /stats/prometheus with `page`, or never."""

    daemon_threads = True

    def __init__(self, path: Path) -> None:
        self.page = GATEWAY
        self.asked: list[str] = []
        envoy = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                envoy.asked.append(self.path)
                body = envoy.page.encode()
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def address_string(self) -> str:
                return "unix"

            def log_message(self, *_: object) -> None: ...

        super().__init__(str(path), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()


def test_the_collector_counts_and_metrics_tell(home) -> None:
    home.layout.sockets.mkdir(parents=True)
    home.layout.gateway.mkdir(parents=True)
    shares = [{"endpoint": "m1", "per_second": 12.5, "priority": "normal", "since_us": 5}]
    home.layout.gateway_shares.write_text(json.dumps(shares))
    envoy = Envoy(home.layout.gateway_admin_socket)
    server = MetricsServer(home.layout, 0)
    assert scrape(server)["modelfleet_gateway_up", ()] == 0
    for _ in range(2):
        home.collector().close()
        found = scrape(server)
        assert found["modelfleet_gateway_up", ()] == 1
        assert found["modelfleet_gateway_requests_total", (("code_class", "2xx"),)] == 7
        refused = "modelfleet_gateway_refused_total"
        assert found[refused, (("endpoint", "m1"), ("reason", "overload"))] == 40
        assert found[refused, (("endpoint", ""), ("reason", "not-found"))] == 3
        assert sum(value for (name, _), value in found.items() if name == refused) == 47
        share = "modelfleet_gateway_fair_share_per_second"
        assert found[share, (("endpoint", "m1"),)] == 12.5
    assert len(envoy.asked) == 2
    server.close()
    envoy.shutdown()
    envoy.server_close()
