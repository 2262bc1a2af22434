"""/metrics for Prometheus and /healthz, for all workers of the machine.

Rendered from evidence.db, so that counters go on over restarts of the collector and a scrape never
waits for its loop. Own rendering: the client library needs 337 ms for 2,000 histograms.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec

from modelfleet.core.layout import Layout
from modelfleet.telemetry import latency
from modelfleet.telemetry.evidence import EvidenceReader
from modelfleet.telemetry.orphans import ControlWatch
from modelfleet.telemetry.views import Total

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_STALE_SECONDS = 15.0
_BOUNDS = [f"{bound:.9g}" for bound in latency.CLASSIC_SECONDS]


class _Heartbeat(msgspec.Struct):
    good_at: float = 0.0


class _Share(msgspec.Struct):
    endpoint: str
    per_second: float


class Exposition:
    """Lines of the Prometheus text format."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def family(self, name: str, kind: str, text: str) -> None:
        self._lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]

    def sample(self, name: str, value: float, labels: Mapping[str, str] | None = None) -> None:
        self._lines.append(f"{name}{_labels(labels or {})} {value:.17g}")

    def single(self, name: str, kind: str, text: str, value: float) -> None:
        self.family(name, kind, text)
        self.sample(name, value)

    def text(self) -> bytes:
        return ("\n".join(self._lines) + "\n").encode()


def render(
    evidence: EvidenceReader,
    controls: ControlWatch,
    now: float,
    heartbeat: Path | None = None,
    shares: Path | None = None,
) -> bytes:
    """The whole page. now: Unix seconds. heartbeat: what the heartbeat process writes. shares: what
    the control plane tells the gateway to let in."""
    page = Exposition()
    totals = sorted(evidence.totals().values(), key=lambda total: (total.model, total.version))
    _requests(page, totals)
    _batches(page, evidence.batch_rows())
    _durations(page, totals)
    _gateway(page, evidence, now, shares)
    counters = {
        "mf_records_total": ("records", "Prediction records read from segments."),
        "mf_records_unreadable_total": ("unreadable", "Answers that don't fit their signature."),
        "mf_outcomes_joined_total": ("outcomes_joined", "Predicted rows that got a label."),
        "mf_outcomes_rejected_total": ("outcomes_rejected", "Lines that are no outcome."),
        "mf_outcomes_expired_total": ("outcomes_expired", "Outcomes of unknown predictions."),
    }
    for name, (counter, text) in counters.items():
        page.single(name, "counter", text, evidence.counter(counter))
    page.single(
        "mf_inference_log_dropped_total",
        "counter",
        "Predictions that workers could not record.",
        evidence.dropped(),
    )
    page.single(
        "mf_outcomes_parked", "gauge", "Outcomes waiting for their prediction.", evidence.parked()
    )
    horizon = evidence.closed_until()
    lag = max(0.0, now - horizon / 1e6) if horizon else 0.0
    page.single("mf_collector_lag_seconds", "gauge", "Age of the newest complete evidence.", lag)
    good_at = _good_at(heartbeat)
    text = "Unix time at which everything was last ready; 0 if never. Alert when it grows old."
    page.single("modelfleet_heartbeat_timestamp_seconds", "gauge", text, good_at)
    text = "Always 1: an alert on it fires for ever, and its silence is the alarm."
    page.single("modelfleet_watchdog", "gauge", text, 1)
    page.family("mf_worker_up", "gauge", "1 if the worker is ready.")
    controls.poll()
    for status in controls.status():
        page.sample("mf_worker_up", float(status.up), {"worker": status.worker})
    return page.text()


def _good_at(heartbeat: Path | None) -> float:
    try:
        return (
            msgspec.json.decode(heartbeat.read_bytes(), type=_Heartbeat).good_at if heartbeat else 0
        )
    except (FileNotFoundError, msgspec.DecodeError):
        return 0.0


def _requests(page: Exposition, totals: Iterable[Total]) -> None:
    page.family("mf_requests_total", "counter", "Requests by model, version and status code.")
    for total in totals:
        for code, count in sorted(total.codes.items()):
            labels = {"model": total.model, "version": total.version, "code": str(code)}
            page.sample("mf_requests_total", count, labels)


def _gateway(page: Exposition, evidence: EvidenceReader, now: float, shares: Path | None) -> None:
    text = "1 if the gateway's counters were read in the last seconds."
    fresh = now - evidence.gateway_seen() / 1e6 < _STALE_SECONDS
    page.single("modelfleet_gateway_up", "gauge", text, float(fresh))
    name = "modelfleet_gateway_requests_total"
    page.family(name, "counter", "Requests that the gateway answered or passed on, by class.")
    for code_class, count in evidence.gateway_requests():
        page.sample(name, count, {"code_class": code_class})
    name = "modelfleet_gateway_refused_total"
    page.family(name, "counter", "Requests that the gateway itself refused.")
    for endpoint, reason, count in evidence.refused_ever():
        page.sample(name, count, {"endpoint": endpoint, "reason": reason})
    name = "modelfleet_gateway_fair_share_per_second"
    page.family(name, "gauge", "What each caller may ask of an overloaded endpoint.")
    for one in _shares(shares):
        page.sample(name, one.per_second, {"endpoint": one.endpoint})


def _shares(path: Path | None) -> list[_Share]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[_Share]) if path else []
    except (FileNotFoundError, msgspec.DecodeError):
        return []


def _batches(page: Exposition, found: Iterable[tuple[str, str, int]]) -> None:
    page.family("mf_batch_rows_total", "counter", "Rows that batches predicted.")
    for model, version, rows in found:
        page.sample("mf_batch_rows_total", rows, {"model": model, "version": str(version)})


def _durations(page: Exposition, totals: Sequence[Total]) -> None:
    name = "mf_request_duration_seconds"
    page.family(name, "histogram", "Time in the worker of answered requests.")
    for total in totals:
        labels = {"model": total.model, "version": total.version}
        count = int(total.latency.sum())
        cumulative = [*latency.classic_cumulative(total.latency), count]
        for bound, below in zip([*_BOUNDS, "+Inf"], cumulative, strict=True):
            page.sample(f"{name}_bucket", below, labels | {"le": bound})
        page.sample(f"{name}_count", count, labels)
        seconds = latency.mean_us(total.latency) * count / 1e6 if count else 0.0
        page.sample(f"{name}_sum", seconds, labels)


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escape(value)}"' for name, value in labels.items()) + "}"


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


class MetricsServer:
    """Serves on 127.0.0.1 in threads of its own. Port 0 takes a free one: see `port`."""

    def __init__(self, layout: Layout, port: int) -> None:
        evidence = EvidenceReader(layout.evidence_database)

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                try:
                    if self.path.partition("?")[0] == "/metrics":
                        controls = ControlWatch(layout.control)
                        body = render(
                            evidence, controls, time.time(), layout.heartbeat, layout.gateway_shares
                        )
                        controls.close()
                        self._send(200, CONTENT_TYPE, body)
                    elif self.path == "/healthz":
                        self._send(*health(evidence, time.time()))
                    else:
                        self._send(404, "text/plain", b"There is /metrics and /healthz.\n")
                finally:
                    evidence.close()

            def _send(self, status: int, kind: str, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Scrapes are not worth a line each."""

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def health(evidence: EvidenceReader, now: float) -> tuple[int, str, bytes]:
    """Status, content type and body of /healthz: 503 when nothing was committed for long."""
    horizon = evidence.closed_until()
    lag = now - horizon / 1e6 if horizon else None
    ok = lag is not None and lag < _STALE_SECONDS
    body = msgspec.json.encode({"status": "ok" if ok else "behind", "lag_seconds": lag})
    return (200 if ok else 503), "application/json", body
