"""A small fleet with traffic, drift, outcomes and a running canary; no gateway, no workers."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest
from fastapi.testclient import TestClient
from starlette.responses import Response

from faces import app_over
from modelfleet.core.authorization import SYSTEM, Grant, Role
from modelfleet.core.ids import new_id
from modelfleet.core.layout import Layout
from modelfleet.gates import GateRun
from modelfleet.gates import Verdict as GateVerdict
from modelfleet.gates.store import save
from modelfleet.monitoring import LiveVersion
from modelfleet.registry import Version
from modelfleet.rollouts import store as rollout_store
from modelfleet.rollouts.judge import Finding, MetricVerdict, Verdict
from modelfleet.rollouts.plan import Spec
from modelfleet.rollouts.step import State
from modelfleet.rollouts.store import NewEvidence
from modelfleet.serving.endpoints import Route
from modelfleet.telemetry.database import open_writer, transaction, write_meta
from modelfleet.telemetry.recent import RecentPrediction, _encode
from modelfleet.telemetry.states import State as Counted
from modelfleet.wiring import Fleet
from modelfleet_worker.wire import profile
from people import ADMIN

MINUTE = 60_000_000
WINDOWS = 30
ROWS = 200
SETTINGS = """
[evidence]
window_seconds = 60
[monitoring]
drift_window_seconds = 300
"""

SCORING = {
    "name": "scoring",
    "team": "growth",
    "inputs": [{"name": "x", "datatype": "FP64", "shape": [-1, 2]}],
    "steps": [
        {
            "name": "first",
            "model": "churn",
            "inputs": {"x": "input.x"},
            "fallback": {"previous": True, "constant": {"prediction": 0.5}},
        },
        {
            "name": "second",
            "model": "upsell",
            "inputs": {"x": {"concat": ["first.prediction", {"select": "input.x", "column": 0}]}},
            "timeout_ms": 200,
            "optional": True,
        },
    ],
    "outputs": {"first": "first.prediction", "second": "second.prediction"},
}


@dataclass
class World:
    """Models churn (canary running, drifting) and upsell of team growth, fraud of team risk."""

    fleet: Fleet
    versions: dict[str, Version] = field(default_factory=dict)
    rollout: str = ""

    @property
    def now(self) -> int:
        """The end of the last closed window."""
        return time.time_ns() // 1000 // MINUTE * MINUTE

    def serve(self, endpoint: str, *shares: tuple[Version, int]) -> None:
        if endpoint not in {one.name for one in self.fleet.endpoints.all()}:
            self.fleet.endpoints.create(ADMIN, endpoint, shares[0][0].model)
        with self.fleet.database.begin() as connection:
            place = self.fleet.endpoints.find(connection, endpoint)
            routes = [Route(version.id, weight) for version, weight in shares]
            self.fleet.endpoints.set_routes(
                connection, place.id, routes, stable_version_id=shares[0][0].id
            )

    def start_canary(self) -> None:
        """churn 1.0.0 -> 1.1.0 at half of the traffic, twenty ticks judged."""
        spec = Spec(weights=(5000,))
        rollout = self.fleet.rollouts.start(ADMIN, "churn", "churn", "1.1.0", spec)
        self.rollout = rollout.id
        self.serve("churn", (self.versions["churn"], 5000), (self.versions["next"], 5000))
        with self.fleet.database.begin() as connection:
            row = rollout_store.find_row(connection, rollout.id)
            assert row is not None
            rollout_store.update(connection, row, state=State.STEPPING.value)
            rollout_store.add_move(
                connection, rollout.id, State.STEPPING, 0, "50% goes to it.", "modelfleet"
            )
            seen = [NewEvidence(tick, 0, 0, verdict(tick)) for tick in range(20)]
            rollout_store.add_evidence(connection, [(rollout.id, one) for one in seen])

    def traffic(self) -> None:
        """Half an hour of windows; f0 of churn 1.0.0 is shifted in the last ten minutes."""
        rng = np.random.default_rng(0)
        reference = profile.build_profile(
            ["f0", "f1"], rng.normal(size=(5000, 2)), rng.uniform(size=5000)
        )
        assert reference.score is not None
        bins = [*reference.features, reference.score]
        connection = open_writer(self.fleet.layout.evidence_database)
        index = self.versions["churn"].index
        with transaction(connection):
            connection.execute("INSERT INTO layout VALUES ('d', ?)", (profile.encode(reference),))
            for k in range(WINDOWS):
                shift = 1.5 if k >= WINDOWS - 10 else 0.0
                columns = [
                    rng.normal(size=ROWS) + shift,
                    rng.normal(size=ROWS),
                    rng.uniform(size=ROWS),
                ]
                state = Counted.empty(tuple(one.bins for one in bins))
                counts = [one.count(column) for one, column in zip(bins, columns, strict=True)]
                state.counts[-sum(state.sizes) :] = np.concatenate(counts)
                state.latency[80] = ROWS
                state.requests, state.rows, state.errors = ROWS, ROWS, 1
                start = self.now - (WINDOWS - k) * MINUTE
                row = (index, start, ROWS, 1, state.encode())
                connection.execute("INSERT INTO window VALUES (?, ?, 'd', ?, ?, ?)", row)
                if k < WINDOWS - 5:
                    connection.execute(
                        "INSERT INTO outcome_window "
                        "VALUES (?, ?, ?, 0, 50.0, 90.0, 0.0, 0, 0, 0, 0)",
                        (index, start, ROWS if k < 20 else ROWS // 2),
                    )
            total = Counted.empty((0,))
            total.requests = WINDOWS * ROWS
            connection.execute(
                "INSERT INTO total VALUES (?, ?, ?, ?, ?)",
                (index, WINDOWS * ROWS, WINDOWS, self.now, total.encode()),
            )
            self._prediction(connection, index)
            write_meta(connection, "window_us", MINUTE)
            write_meta(connection, "horizon", self.now)
            write_meta(connection, "outcomes_joined", 4500)
        connection.close()

    def _prediction(self, connection: object, index: int) -> None:
        folder = self.fleet.layout.bundle("b" * 64) / "files"
        folder.mkdir(parents=True)
        entries = self.fleet.registry.entries(self.versions["churn"].bundle_digest)
        entry = next(one for one in entries if one.path == "bundle.json")
        info = json.loads(self.fleet.blobs.path(entry.sha256).read_bytes()) | {"score": None}
        (folder / "bundle.json").write_text(json.dumps(info))
        connection.execute(  # type: ignore[attr-defined]
            "INSERT INTO version VALUES (?, 'churn', '1.0.0', ?, 'd')", (index, str(folder.parent))
        )
        caller = next(one.id for one in self.fleet.identity.list_principals(ADMIN))
        kept = RecentPrediction(
            b"\x01" * 16, self.now, 250_000, 200, 1, False, 1, 0.5,
            [np.array([4.25, 8.5]).tobytes()], [np.array([0.625]).tobytes()], caller, "r", "",
        )  # fmt: skip
        connection.execute(  # type: ignore[attr-defined]
            "INSERT INTO recent VALUES (?, ?)", (index, _encode([kept]))
        )

    def watch(self) -> None:
        """Let the monitors judge what is due."""
        version = self.versions["churn"]
        live = [LiveVersion("churn", version.index, "churn", "1.0.0", "growth")]
        self.fleet.monitoring.run_due(SYSTEM, live)


def look_through_gates(world: World) -> None:
    """One run with all that evidence can hold, one with what it should not, and a request."""
    hostile = '"><script>alert(1)</script>{{7*7}}'
    bound = {"value": -0.01, "low": -0.03, "high": 0.01, "rows": 900}
    bounds = [
        {**bound, "label": f"land={name}", "verdict": said}
        for name, said in (("de", "pass"), ("fr", "fail"), (hostile, "inconclusive"))
    ]
    evidence = {
        "facts": {"rows": 900, hostile: hostile},
        "panels": [{"title": hostile, "limit": -0.02, "bounds": bounds}],
        "bars": [{"label": hostile, "value": 3.0, "limit": 2.0, "verdict": "fail"}],
        "curves": [{"name": hostile, "x": [0, 0.5, 1], "y": [0, 0.9, 1]}],
        "axes": ["false alarms", "found"],
        "histograms": [
            {"name": "age", "labels": ["a", "b"], "reference": [0.5, 0.5], "recent": [0.2, 0.8]}
        ],
        "rows": [{"row": 3, hostile: hostile}],
        "notes": [hostile],
    }
    strange = {
        "facts": 3,
        "panels": [{"bounds": [{"value": "x"}, 4]}, None],
        "bars": {"a": 1},
        "curves": [{"x": [1], "y": None}],
        "axes": 3,
        "histograms": [[]],
        "rows": "rows",
        "notes": {"a": 1},
    }
    version = world.versions["next"]
    told = {"kind": "quality", "champion": "churn@1.0.0", "seconds": 1.5}
    save(
        world.fleet.database,
        version.id,
        "f" * 64,
        [
            GateRun("quality", GateVerdict.FAIL, hostile, evidence, **told),
            GateRun("strange", GateVerdict.WARN, "It is strange.", strange, kind="run"),
        ],
    )
    gates = ["signature", {"approval": {"blocking": False}}]
    world.fleet.gates.request(ADMIN, version.model, version.version, gates)


def verdict(tick: int) -> Verdict:
    metrics = (
        MetricVerdict(
            "errors", Finding.OPEN, "Undecided in errors: <b>.", 0.0, 4.1, 0.1 * tick, 3.0
        ),
        MetricVerdict("predictions", Finding.OPEN, "Undecided.", -0.2, 0.2, 2 / (tick + 1), 0.2),
    )
    return Verdict(Finding.OPEN, metrics, 50 * tick, 49 * tick, "Not proven yet: errors.")


@pytest.fixture
def database_kind() -> str:
    """Pages see services only: one store will do."""
    return "sqlite"


@pytest.fixture
def bare(layout: Layout, request: pytest.FixtureRequest) -> Fleet:
    """An empty fleet with its first admin."""
    layout.settings_file.write_text(SETTINGS)
    fleet: Fleet = request.getfixturevalue("fleet")
    fleet.identity.bootstrap(fleet.layout)
    return fleet


@pytest.fixture
def world(bare: Fleet, request: pytest.FixtureRequest) -> World:
    registrar = request.getfixturevalue("registrar")
    made = World(bare)
    for name, team in (("churn", "growth"), ("upsell", "growth"), ("fraud", "risk")):
        registrar.model(name, team)
        made.versions[name] = registrar.ready(name, version="1.0.0", dataset=f"{name}-2026")
        made.serve(name, (made.versions[name], 10_000))
    made.versions["next"] = registrar.ready("churn", version="1.1.0", uses=("fraud",))
    bare.pipelines.define(ADMIN, SCORING)
    made.traffic()
    made.start_canary()
    made.watch()
    look_through_gates(made)
    return made


class Visitor(TestClient):
    """A browser without JavaScript."""

    def form_token(self, path: str) -> str:
        found = re.search(r'name="csrf" value="([^"]*)"', self.get(path).text)
        assert found, f"{path} has no form"
        return found[1]

    def fill(self, path: str, page: str, **fields: str) -> Response:
        """Post a form of `page`."""
        return self.post(path, data={"csrf": self.form_token(page), **fields})  # type: ignore[return-value]


@pytest.fixture
def visitor(bare: Fleet) -> Iterator[Visitor]:
    """Somebody who is not logged in."""
    return Visitor(app_over(bare), follow_redirects=False, raise_server_exceptions=False)


Enter = Callable[..., Visitor]


@pytest.fixture
def enter(bare: Fleet) -> Enter:
    """Log somebody in who has these roles; without any, the admin."""

    def logged_in(*roles: Role, team: str = "*", grants: bool = True) -> Visitor:
        visitor = Visitor(app_over(bare), follow_redirects=False, raise_server_exceptions=False)
        key = bare.layout.admin_key.read_text().strip()
        if roles or not grants:
            name = f"person-{new_id()}"
            bare.identity.create_principal(ADMIN, name, "person")
            for role in roles:
                bare.identity.add_grant(ADMIN, name, Grant(role, team))
            key, _ = bare.identity.create_key(ADMIN, name)
        answer = visitor.fill("/login", "/login", key=key)
        assert answer.status_code == 303
        return visitor

    return logged_in
