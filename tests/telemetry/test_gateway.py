"""Envoy's counters: what they mean, and that nothing is counted twice."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelfleet.core.refusals import Reason
from modelfleet.telemetry import gateway
from modelfleet.telemetry.database import open_writer, transaction
from modelfleet.telemetry.evidence import EvidenceReader
from modelfleet.telemetry.gateway import GatewayCounters, Reading, Series, read, reason_of

PAGE = """\
# TYPE envoy_http_downstream_rq_xx counter
envoy_http_downstream_rq_xx{envoy_response_code_class="2",envoy_http_conn_manager_prefix="gateway"} 7
# TYPE envoy_modelfleet_refused counter
envoy_modelfleet_refused{endpoint="",code="404",details="route_not_found"} 3
envoy_modelfleet_refused{endpoint="a.b",code="403",details="rbac_access_denied_matched_policy[none]"} 1
envoy_modelfleet_refused{endpoint="m1",code="401",details="jwt_authn_access_denied{Jwt_is_missing}"} 2
envoy_modelfleet_refused{endpoint="m1",code="401",details="jwt_authn_access_denied{Jwt_is_expired}"} 4
envoy_modelfleet_refused{endpoint="m1",code="500",details="via_upstream"} 99
envoy_modelfleet_refused{endpoint="m1",limit="overload"} 40
envoy_modelfleet_refused{endpoint="m1",limit="rate-limit"} 5
# TYPE envoy_server_hot_restart_epoch gauge
envoy_server_hot_restart_epoch{} 2
# TYPE envoy_server_uptime gauge
envoy_server_uptime{} 61
"""  # noqa: E501 - as Envoy writes it


def test_envoys_page_becomes_reasons() -> None:
    found = read(17, PAGE)
    assert (found.pid, found.epoch, found.uptime) == (17, 2, 61)
    assert sorted((one.kind, one.endpoint, one.label, n) for one, n in found.values.values()) == [
        ("refused", "", "not-found", 3),
        ("refused", "a.b", "not-allowed", 1),
        ("refused", "m1", "key-expired", 4),
        ("refused", "m1", "key-missing", 2),
        ("refused", "m1", "overload", 40),
        ("refused", "m1", "rate-limit", 5),
        ("requests", "", "2xx", 7),
    ]


@pytest.mark.parametrize(
    ("status", "details", "reason"),
    [
        (401, "jwt_authn_access_denied{Jwt_verification_fails}", Reason.KEY_INVALID),
        (413, "fault_filter_abort", Reason.TOO_LARGE),
        (431, "http1.too_many_headers", Reason.TOO_LARGE),
        (503, "no_healthy_upstream", Reason.NO_WORKER),
        (503, "overload", Reason.GATEWAY_FULL),
        (504, "upstream_response_timeout", Reason.TIMEOUT),
        (418, "strange", Reason.OTHER),
    ],
)
def test_each_answer_has_a_reason(status: int, details: str, reason: Reason) -> None:
    assert reason_of(status, details) is reason


class Counted:
    """An evidence database to which somebody tells what Envoy said."""

    def __init__(self, home: Path) -> None:
        self.path = home / "evidence.db"
        self.connection = open_writer(self.path)
        self.counters = GatewayCounters(home / "nobody.sock", self.connection)

    def said(self, pid: int, value: int, *, epoch: int = 0, endpoint: str = "m1") -> int:
        """The counter of one endpoint's overload is at `value`. What we have counted then."""
        series = Series("refused", endpoint, "overload")
        values = {f"series of {endpoint}": (series, value)}
        self.counters._reading = Reading(pid, epoch, 1, values)
        with transaction(self.connection):
            self.counters.save(self.connection)
        return self.total(endpoint)

    def total(self, endpoint: str = "m1") -> int:
        found = {(e, r): n for e, r, n in EvidenceReader(self.path).refused_ever()}
        return found[endpoint, "overload"]

    def restart(self) -> None:
        self.counters = GatewayCounters(self.path, self.connection)


@pytest.fixture
def counted(tmp_path: Path) -> Iterator[Counted]:
    made = Counted(tmp_path)
    yield made
    made.connection.close()


def test_counters_go_on_over_all_restarts(counted: Counted) -> None:
    assert counted.said(1, 10) == 10
    assert counted.said(1, 10) == 10
    assert counted.said(1, 12) == 12
    counted.restart()
    assert counted.said(1, 15) == 15  # what was refused while we were away counts
    assert counted.said(2, 4) == 19  # it died: the next one began with none
    assert counted.said(3, 100) == 119  # also if that is more than the last one had
    assert counted.said(4, 60, epoch=1) == 119  # it took over with counts that we know already
    assert counted.said(4, 61, epoch=1) == 120
    assert counted.said(4, 2, epoch=1) == 122  # its counter was made anew


def test_one_that_has_not_heard_its_predecessor_is_not_read(counted: Counted) -> None:
    assert not Reading(1, 1, 0, {}).complete
    assert Reading(1, 1, 5, {}).complete
    assert Reading(1, 0, 0, {}).complete


def test_a_start_without_a_past_counts_all_but_what_was_taken_over(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "heir").mkdir()
    new, heir = Counted(tmp_path / "new"), Counted(tmp_path / "heir")
    assert new.said(1, 7) == 7
    assert heir.said(1, 7, epoch=3) == 0
    assert heir.said(1, 9, epoch=3) == 2
    new.connection.close()
    heir.connection.close()


def test_the_last_minutes_are_kept_in_steps(
    counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1_000 * gateway.STEP_US]
    monkeypatch.setattr(gateway, "now_us", lambda: now[0])
    begun = now[0]
    counted.said(1, 3)
    now[0] += gateway.STEP_US
    counted.said(1, 8)
    counted.said(1, 2, endpoint="m2")
    reader = EvidenceReader(counted.path)
    assert reader.refused(begun) == {"m1": {"overload": 8}, "m2": {"overload": 2}}
    assert reader.refused(begun + 1) == {"m1": {"overload": 5}, "m2": {"overload": 2}}
    assert reader.gateway_seen() == now[0]
    with transaction(counted.connection):
        gateway.forget(counted.connection, begun + gateway.KEPT_US + 2 * gateway.STEP_US)
    assert reader.refused(0) == {"m1": {"overload": 5}, "m2": {"overload": 2}}
    assert counted.total() == 8
    reader.close()


def test_a_gateway_that_hangs_does_not_hold_up_the_collector(home) -> None:
    home.layout.sockets.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(home.layout.gateway_admin_socket))
        deaf.listen()
        home.add_version(1)
        home.write(*[home.record(1) for _ in range(5)])
        collector = home.collector()
        assert collector.collect() == 5
        collector.close()
    reader = EvidenceReader(home.layout.evidence_database)
    assert reader.gateway_seen() == 0
    assert reader.refused(0) == {}
    reader.close()
