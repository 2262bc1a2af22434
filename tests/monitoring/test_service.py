"""From window states in evidence.db to alerts in the fleet's database."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from modelfleet.core import audit
from modelfleet.core.authorization import SYSTEM, Grant, Principal, Role
from modelfleet.core.database import Database
from modelfleet.core.errors import Conflict, NotAllowed, NotFound
from modelfleet.core.layout import Layout
from modelfleet.core.settings import MonitoringSettings, Settings
from modelfleet.monitoring import LiveVersion, MonitoringService, overload, service
from modelfleet.serving.gateway import FairShare
from modelfleet.telemetry.database import open_writer, transaction, write_meta
from modelfleet.telemetry.evidence import EvidenceReader
from modelfleet.telemetry.states import State
from modelfleet_worker.wire import profile

SECOND = 1_000_000
HOUR = 3600 * SECOND
START = 500_000 * HOUR
WINDOWS = 6
LIVE = [
    LiveVersion("late-JFK", 1, "late", "1.0.0", "flights"),
    LiveVersion("late-LGA", 2, "late", "2.0.0", "flights"),
]


class World:
    """Fills evidence.db with windows of ten minutes, the way the collector would."""

    def __init__(self, home: Path, place: Path | sa.URL) -> None:
        layout = Layout(home)
        self.connection = open_writer(layout.evidence_database)
        self.database = Database(place)
        self.service = MonitoringService(
            self.database,
            EvidenceReader(layout.evidence_database),
            Settings(home=home, monitoring=MonitoringSettings(drift_window_seconds=3600)),
        )
        rng = np.random.default_rng(0)
        self.rng = rng
        self.profile = profile.build_profile(
            ["distance", "hour"], rng.normal(size=(20_000, 2)), rng.uniform(size=20_000)
        )
        with transaction(self.connection):
            self.connection.execute(
                "INSERT INTO layout VALUES ('d', ?)", (profile.encode(self.profile),)
            )
            write_meta(self.connection, "window_us", HOUR // WINDOWS)

    def fill(self, hour: int, version: int, *, shift: float = 0.0, rows: int = 600, **more: int):
        """An hour of windows; `distance` is shifted. more: errors, crashes in each window."""
        assert self.profile.score is not None
        bins = [*self.profile.features, self.profile.score]
        with transaction(self.connection):
            for k in range(WINDOWS):
                columns = [
                    self.rng.normal(size=rows) + shift,
                    self.rng.normal(size=rows),
                    self.rng.uniform(size=rows),
                ]
                state = State.empty(tuple(one.bins for one in bins))
                counts = [one.count(column) for one, column in zip(bins, columns, strict=True)]
                state.counts[-sum(state.sizes) :] = np.concatenate(counts)
                state.requests, state.rows = rows, rows
                state.errors = more.get("errors", 0) + more.get("crashes", 0)
                state.codes = {200: rows - state.errors, 599: more.get("crashes", 0)}
                start = START + hour * HOUR + k * HOUR // WINDOWS
                self.connection.execute(
                    "INSERT INTO window VALUES (?, ?, 'd', ?, ?, ?)",
                    (version, start, rows, state.errors, state.encode()),
                )
            write_meta(self.connection, "horizon", START + (hour + 1) * HOUR + SECOND)


@pytest.fixture
def world(tmp_path, database_place):
    made = World(tmp_path, database_place)
    yield made
    made.connection.close()
    made.database.close()


@pytest.fixture
def hour(world) -> Callable[..., None]:
    """Let one hour pass for both versions; the first one's distance is shifted."""

    def pass_hour(number: int, shift: float = 0.0, **more: int) -> None:
        world.fill(number, 1, shift=shift, **more)
        world.fill(number, 2)
        world.service.run_due(SYSTEM, LIVE)

    return pass_hour


def test_drift_becomes_one_alert_with_its_evidence(world, hour):
    hour(0)
    assert world.service.list_alerts(SYSTEM) == []
    hour(1, shift=0.5)
    hour(2, shift=0.5)
    (alert,) = world.service.list_alerts(SYSTEM, open_only=True)
    assert (alert.kind, alert.state, alert.endpoint) == ("drift", "firing", "late-JFK")
    assert (alert.subject, alert.version, alert.team) == ("distance", "1.0.0", "flights")
    assert alert.breached_windows == 2
    evidence = alert.evidence
    assert sum(evidence["window_counts"]) == evidence["rows"] == 3600
    assert sum(evidence["reference_counts"]) == 20_000
    assert len(evidence["window_counts"]) == len(evidence["edges"]) + 2
    assert evidence["distance"] == pytest.approx(0.25, abs=0.06)
    hour(3)
    hour(4)
    assert world.service.list_alerts(SYSTEM, open_only=True) == []
    (resolved,) = world.service.list_alerts(SYSTEM)
    assert resolved.state == "resolved"


def test_a_window_is_judged_once_and_results_are_kept(world, hour):
    hour(0)
    hour(1, shift=0.5)
    assert world.service.due_windows() == []
    assert world.service.run_window(SYSTEM, START + HOUR, LIVE) is None
    newest, oldest = world.service.drift(1)
    assert newest.window_start > oldest.window_start
    assert [test.feature for test in newest.tests] == ["distance", "hour", "(score)"]
    assert [test.verdict for test in newest.tests] == ["drift", "ok", "ok"]
    assert (newest.rows, newest.alarms, oldest.alarms) == (3600, 1, 0)
    assert world.service.drift_alarms() == 1


def test_too_few_rows_are_inconclusive(world):
    world.fill(0, 1, shift=3.0, rows=1)
    (report,) = world.service.run_due(SYSTEM, LIVE)
    assert (report.versions, report.tests, report.inconclusive, report.alarms) == (1, 3, 3, 0)
    assert world.service.drift(1)[0].tests[0].p is None


def test_a_version_that_is_no_longer_live_has_no_open_alert(world, hour):
    hour(0, shift=0.5)
    world.fill(1, 2)
    world.service.run_due(SYSTEM, LIVE[1:])
    (alert,) = world.service.list_alerts(SYSTEM)
    assert alert.state == "resolved"
    assert "no longer live" in alert.summary


def test_errors_and_crashes_break_hard_limits(world, hour):
    hour(0, errors=60)
    (alert,) = world.service.list_alerts(SYSTEM, open_only=True)
    assert (alert.kind, alert.evidence["errors"]) == ("error-rate", 60)
    hour(1, crashes=1)
    kinds = {one.kind: one.state for one in world.service.list_alerts(SYSTEM)}
    assert kinds == {"error-rate": "resolved", "crash": "firing"}


def test_people_acknowledge_and_resolve(world, hour):
    hour(0, shift=0.5)
    (alert,) = world.service.list_alerts(SYSTEM)
    ann = Principal("p1", "ann", (Grant(Role.DEPLOYER, "flights"),))
    stranger = Principal("p2", "bob", (Grant(Role.DEPLOYER, "hotels"),))
    viewer = Principal("p3", "eve", (Grant(Role.VIEWER),))
    assert world.service.list_alerts(stranger) == []
    assert len(world.service.list_alerts(viewer)) == 1
    for nobody in (stranger, viewer):
        with pytest.raises(NotAllowed):
            world.service.acknowledge(nobody, alert.id)
        with pytest.raises(NotAllowed):
            world.service.run_window(nobody, START, LIVE)
    taken = world.service.acknowledge(ann, alert.id)
    assert (taken.state, taken.acknowledged_by) == ("acknowledged", "ann")
    with pytest.raises(Conflict):
        world.service.acknowledge(ann, alert.id)
    assert world.service.resolve(ann, alert.id).state == "resolved"
    with pytest.raises(Conflict):
        world.service.resolve(ann, alert.id)
    with pytest.raises(NotFound):
        world.service.get_alert(ann, "nothing")
    actions = [event.action for event in audit.events(world.database)]
    assert actions == ["resolve-alert", "acknowledge-alert", "run-drift-window"]


def test_backlog_is_bounded_and_ordered(world):
    for number in (0, 40):
        world.fill(number, 1)
    due = world.service.due_windows()
    assert len(due) == 24
    assert due == sorted(due)
    assert due[-1] == START + 40 * HOUR


def test_one_open_alert_of_a_kind_is_a_rule_of_the_database(world, hour):
    hour(0, shift=0.5)
    with pytest.raises(sa.exc.IntegrityError), world.database.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO alert SELECT 'other', kind, endpoint, version_index, subject, team, "
            "model, version, state, summary, evidence, opened_at, updated_at, fired_at, "
            "resolved_at, acknowledged_at, acknowledged_by, breached_windows, clean_windows "
            "FROM alert"
        )


def test_an_overload_that_stays_is_an_alert_until_it_stays_away(world, monkeypatch):
    now = [START]
    monkeypatch.setattr(service, "now_us", lambda: now[0])
    shed = [FairShare("late-JFK", 12.25, since_us=START), FairShare("nobody's", 3.0)]

    def looks(count: int, shares: list[FairShare]) -> list[str]:
        for _ in range(count):
            now[0] += overload.EVERY_US
            world.service.check_overload(SYSTEM, shares, LIVE)
        return [one.state for one in world.service.list_alerts(SYSTEM)]

    assert looks(3, []) == []
    assert looks(1, shed) == ["pending"]
    assert looks(1, []) == []  # it was a moment
    assert looks(2, shed) == ["firing"]
    (alert,) = world.service.list_alerts(SYSTEM, open_only=True)
    assert (alert.kind, alert.endpoint, alert.version) == ("overload", "late-JFK", "1.0.0")
    assert "each caller gets 12.2 requests a second" in alert.summary
    assert alert.evidence["of_a_caller_per_second"] == 12.25
    for _ in range(3):  # at its edge: one alert
        assert looks(5, []) == ["firing"]
        assert looks(1, shed) == ["firing"]
    assert looks(6, []) == ["resolved"]
    found = audit.events(world.database)
    verbs = [one.details for one in found if one.action == "check-overload"]
    assert verbs == [
        {"opened": [], "resolved": ["overload/late-JFK/1"]},
        {"opened": ["overload/late-JFK/1"], "resolved": []},
    ]


def test_looks_at_overloads_are_ten_seconds_apart(world, monkeypatch):
    now = [START]
    monkeypatch.setattr(service, "now_us", lambda: now[0])
    for _ in range(19):
        now[0] += SECOND
        world.service.check_overload(SYSTEM, [FairShare("late-JFK", 1.0)], LIVE)
    assert [one.breached_windows for one in world.service.list_alerts(SYSTEM)] == [2]
