"""Views from plain values: tables, dates, histograms, alerts, drift, outcomes, rollouts."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date

import pytest

from modelfleet.core.authorization import Role
from modelfleet.monitoring import AlertInfo, DriftResult, FeatureTest
from modelfleet.rollouts.judge import Finding, MetricVerdict, Verdict
from modelfleet.rollouts.plan import Spec, Strategy
from modelfleet.rollouts.service import Details
from modelfleet.rollouts.store import Evidence, Rollout
from modelfleet.telemetry.views import OutcomeWindow
from modelfleet.views import alerts, drift, outcomes, rollout
from modelfleet.views.fleet import FleetRow
from modelfleet.views.fleet_table import COLUMNS, Query, select
from modelfleet.views.histograms import Bin, histogram
from modelfleet.views.replay import Replay, read_replay
from modelfleet.views.times import SPANS, fitting_span
from people import ADMIN, principal

SECOND = 1_000_000


# The table -----------------------------------------------------------------------------------


def row(name: str, **given: object) -> FleetRow:
    values: dict[str, object] = {
        "endpoint": name, "model": name, "team": "growth", "function": "sales",
        "criticality": "normal", "tags": {}, "stable": "1.0.0", "routes": (), "rollout": None,
        "requests_per_second": 0.0, "error_rate": None, "p50_ms": None, "p95_ms": None,
        "requests": 0, "alerts": 0, "trend": (), "state": "serving",
    }  # fmt: skip
    return FleetRow(**(values | given))  # type: ignore[arg-type]


ROWS = [
    row("b", requests=5, state="failing", tags={"region": "eu"}),
    row("A", requests=50, p50_ms=2.0, criticality="critical"),
    row("c", team="risk", p50_ms=1.0, state="alarm"),
]


@pytest.mark.parametrize(
    ("query", "names"),
    [
        (Query(), "Abc"),
        (Query(descending=True), "cbA"),
        (Query(sort="p50"), "bcA"),
        (Query(sort="p50", descending=True), "Acb"),
        (Query(sort="state"), "bcA"),
        (Query(sort="criticality", descending=True), "Acb"),
        (Query(sort="unknown"), "Abc"),
        (Query(team="risk"), "c"),
        (Query(state="failing"), "b"),
        (Query("REGION=eu"), "b"),
        (Query("sales growth"), "Ab"),
        (Query("nothing"), ""),
    ],
)
def test_select(query, names):
    assert "".join(one.endpoint for one in select(ROWS, query)) == names


@pytest.mark.parametrize("column", COLUMNS)
def test_every_column_sorts_rows_without_values(column):
    assert len(select([*ROWS, row("d", stable=None)], Query(sort=column))) == 4


# Replays and spans -----------------------------------------------------------------------------


def test_dates_of_a_replay():
    replay = Replay(10 * SECOND, date(2013, 7, 1), 2.0, date(2013, 7, 3))
    days = [replay.date_at(k * SECOND) for k in (9, 10, 12, 15, 16)]
    assert days == [None, date(2013, 7, 1), date(2013, 7, 2), date(2013, 7, 3), None]
    assert [replay.is_over(k * SECOND) for k in (9, 15, 16)] == [False, False, True]


def test_a_replay_is_read_from_its_file(layout):
    assert read_replay(layout) is None
    layout.run.mkdir()
    file = layout.run / "replay.json"
    good = {"start": "2026-01-01T00:00:00Z", "from": "2013-07-01", "seconds_per_day": 0.5}
    file.write_text(json.dumps(good))
    found = read_replay(layout)
    assert found is not None
    assert (found.first, found.until, found.seconds_per_day) == (date(2013, 7, 1), None, 0.5)
    assert found.start_us == 1_767_225_600 * SECOND
    wrong = (good | {"seconds_per_day": 0}, good | {"start": "2026-01-01T00:00:00"}, [])
    for broken in ("{", *map(json.dumps, wrong)):
        file.write_text(broken)
        assert read_replay(layout) is None


def test_the_span_fits_what_there_is():
    now = SPANS["24h"]
    assert fitting_span(now - SPANS["5m"], now) == "5m"
    assert fitting_span(now - SPANS["5m"] - 1, now) == "15m"
    assert fitting_span(0, now) == fitting_span(None, now) == "1h"


# Histograms and alerts -----------------------------------------------------------------------


def test_histograms_of_numbers_and_levels():
    numbers = {"edges": [1.0, 2.5], "reference_counts": [2, 1, 1, 0], "window_counts": [0, 0, 4, 0]}
    assert histogram(numbers) == (
        Bin("below 1", 0.5, 0.0),
        Bin("1 to 2.5", 0.25, 0.0),
        Bin("2.5 and more", 0.25, 1.0),
    )
    levels = {"kind": "levels", "levels": ["x", 37.975799999999995], "edges": []}
    levels |= {"reference_counts": [1, 1, 0, 0], "window_counts": [0, 0, 3, 1]}
    assert [one.label for one in histogram(levels)] == ["x", "37.9758", "unseen", "missing"]


@pytest.mark.parametrize(
    "evidence",
    [{}, {"window_counts": "x"}, {"window_counts": [1], "reference_counts": [1, 2], "edges": [1]}],
)
def test_evidence_without_a_histogram(evidence):
    assert histogram(evidence) == ()


def alert(name: str, subject: str = "age", distance: float = 0.1, **given: object) -> AlertInfo:
    values: dict[str, object] = {
        "id": name + subject, "kind": "drift", "state": "firing", "endpoint": name, "model": name,
        "version": "1.0.0", "version_index": 1, "team": "growth", "subject": subject,
        "summary": "", "opened_at": "", "updated_at": "", "fired_at": "", "resolved_at": "",
        "acknowledged_at": "", "acknowledged_by": "", "breached_windows": 1,
        "evidence": {"distance": distance, "tolerated": 0.01, "rows": 7},
    }  # fmt: skip
    return AlertInfo(**(values | given))  # type: ignore[arg-type]


def test_alerts_are_grouped_the_largest_group_and_distance_first():
    found = [alert("a", distance=0.2), alert("b", distance=0.9), alert("a", "zip")]
    view = alerts.arrange(found, ADMIN, alerts.AlertQuery())
    assert [(g.name, g.alerts, g.worst) for g in view.groups] == [("age", 2, 0.9), ("zip", 1, 0.1)]
    assert [card.alert.endpoint for card in view.groups[0].cards] == ["b", "a"]
    by_endpoint = alerts.arrange(found, ADMIN, alerts.AlertQuery(by="endpoint"))
    assert [g.name for g in by_endpoint.groups] == ["a", "b"]


def test_many_alerts_come_in_pages():
    found = [alert(f"m{k:03d}") for k in range(alerts.PAGE + 1)]
    first = alerts.arrange(found, ADMIN, alerts.AlertQuery())
    last = alerts.arrange(found, ADMIN, alerts.AlertQuery(page=99))
    assert (first.pages, len(first.groups[0].cards)) == (2, alerts.PAGE)
    assert (last.query.page, first.total) == (2, alerts.PAGE + 1)
    assert len(last.groups[0].cards) == 1
    assert last.groups[0].alerts == alerts.PAGE + 1


@pytest.mark.parametrize(
    ("state", "text", "fits"),
    [("open", "", True), ("firing", "", True), ("resolved", "", False), ("all", "", True),
     ("open", "AGE growth", True), ("open", "age risk", False)],
)  # fmt: skip
def test_alerts_match(state, text, fits):
    assert alerts.matches(alert("a"), alerts.AlertQuery(state, text)) is fits


def test_who_may_acknowledge():
    assert alerts.card(alert("a"), ADMIN).may_acknowledge
    assert not alerts.card(alert("a", state="acknowledged"), ADMIN).may_acknowledge
    assert alerts.card(alert("a", state="acknowledged"), ADMIN).may_resolve
    assert not alerts.card(alert("a"), principal(Role.VIEWER)).may_resolve
    assert not alerts.card(alert("a"), principal(Role.DEPLOYER, "risk")).may_resolve


# Drift and outcomes ----------------------------------------------------------------------------


def result(k: int, *tests: FeatureTest) -> DriftResult:
    return DriftResult(f"w{k}", f"w{k + 1}", 1, "d", 10, 0, tests)


def feature(name: str, distance: float | None, verdict: str = "ok") -> FeatureTest:
    return FeatureTest(name, verdict, None, distance, 10, 100, 5)


def test_drift_shows_alarmed_features_first_and_gaps_as_gaps():
    results = [
        result(2, feature("a", 0.5), feature("b", 0.1, "drift")),
        result(1, feature("a", None, "inconclusive")),
        result(0, feature("a", 0.2), feature("b", 0.3, "drift")),
    ]
    view = drift.arrange(results, {"b": alert("m", "b")}, 0.01)
    assert [one.feature for one in view.features] == ["b", "a"]
    assert view.features[0].distances == (0.3, None, 0.1)
    assert view.features[1].distances == (0.2, None, 0.5)
    assert [one.alarms for one in view.features] == [2, 0]
    assert drift.arrange([], {}, 0.01).features == ()


def test_cohorts_add_up_and_young_ones_are_preliminary():
    windows = [OutcomeWindow(1, k, 0, 10 if k < 20 else 4, 2, 3.0, 2.0, 1.0) for k in range(24)]
    view = outcomes.arrange(windows, dict.fromkeys(range(24), 10), 1, probabilities=True)
    assert len(view.cohorts) == 12
    assert sum(one.labelled for one in view.cohorts) == 216
    assert [one.preliminary for one in view.cohorts] == [False] * 10 + [True] * 2
    assert view.cohorts[0].accuracy == pytest.approx(0.8)
    assert view.cohorts[0].log_loss == pytest.approx(0.1)
    assert view.total is not None
    assert (view.total.labelled, view.total.predictions) == (216, 240)


def test_numbers_have_no_accuracy():
    view = outcomes.arrange(
        [OutcomeWindow(1, 0, 0, 4, 0, 8.0, 32.0, 0.0)], {}, 1, probabilities=False
    )
    assert view.total is not None
    assert (view.total.accuracy, view.total.absolute, view.total.squared) == (None, 2.0, 8.0)
    assert outcomes.arrange([], {}, 1, probabilities=False).total is None


# Rollouts --------------------------------------------------------------------------------------

ROLLOUT = Rollout(
    "r", "churn", "churn", "growth", "1.0.0", "1.1.0", "canary", "stepping", "run", 1, "",
    Spec(weights=(500, 5000)), "ada", "2026-01-01T00:00:00.000Z", None,
)  # fmt: skip


@pytest.mark.parametrize(
    ("state", "step", "places"),
    [
        ("pending", 0, ["next", "next", "next"]),
        ("stepping", 1, ["done", "now", "next"]),
        ("baking", 1, ["done", "done", "now"]),
        ("succeeded", 1, ["done", "done", "done"]),
        ("rolled_back", 1, ["done", "stopped", "skipped"]),
    ],
)
def test_steps(state, step, places):
    steps = rollout.steps_of(replace(ROLLOUT, state=state, step=step))
    assert [one.title for one in steps] == ["5%", "50%", "100%"]
    assert [one.state for one in steps] == places


def test_a_shadow_ends_without_all_traffic():
    spec = Spec(strategy=Strategy.SHADOW)
    steps = rollout.steps_of(replace(ROLLOUT, spec=spec, state="succeeded", step=0))
    assert [(one.title, one.state) for one in steps] == [("100% copied", "done")]


@pytest.mark.parametrize(
    ("role", "state", "desired", "may"),
    [
        (Role.ADMIN, "stepping", "run", "pause abort"),
        (Role.ADMIN, "paused", "pause", "resume abort"),
        (Role.ADMIN, "stepping", "abort", ""),
        (Role.ADMIN, "succeeded", "run", ""),
        (Role.ADMIN, "rolling_back", "run", ""),
        (Role.APPROVER, "stepping", "run", "abort"),
        (Role.VIEWER, "stepping", "run", ""),
    ],
)
def test_who_may_steer(role, state, desired, may):
    one = replace(ROLLOUT, state=state, desired=desired)
    view = rollout.present(Details(one, (), ()), principal(role))
    buttons = {"pause": view.may_pause, "resume": view.may_resume, "abort": view.may_abort}
    assert " ".join(name for name, shown in buttons.items() if shown) == may


def test_evidence_is_thinned_but_ends_with_the_last_tick():
    def tick(k: int) -> Evidence:
        metric = MetricVerdict("errors", Finding.OPEN, "", 0.0, 4.0, float(k), 3.0)
        return Evidence(
            k, 0, "2026-01-01T00:00:00.000Z", Verdict(Finding.OPEN, (metric,), 1, 1, "")
        )

    (metric,) = rollout.metrics_of([tick(k) for k in range(600)])
    assert len(metric.proof) <= 122
    assert metric.proof[-1] == 599.0
    assert rollout.metrics_of([]) == ()
