"""Ten thousand seeded histories of rollouts in a world where everything goes wrong.

    python bench/simulate.py [--histories 10000] [--seed 1] [--workers 2]

Real: `RolloutService` (with its judge, approvals, freeze windows), endpoints, `serving.pools.plan`,
`serving.routing`, the database. Played: time, workers, the gateway, the collector, gates, people.
The control plane dies at any line of these modules, before and after any commit, and comes back
with nothing but its database and files; another one decides on what it read before; the gateway
takes routes late and its answers get lost; ticks come late, in heaps, again; clocks jump; workers
die; versions can't be loaded; people pause, resume, abort, promote, approve, reject and start.

Ends with one line of JSON: histories, violations, and the seed of each violation.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any

import sqlalchemy as sa

import modelfleet
import modelfleet.wiring  # declares every table
from modelfleet.core import audit
from modelfleet.core.authorization import SYSTEM, Grant, Principal, Role
from modelfleet.core.blobs import FolderBlobStore
from modelfleet.core.database import Database
from modelfleet.core.errors import FleetError
from modelfleet.core.jobs import LocalJobRunner
from modelfleet.core.layout import Layout
from modelfleet.core.migrate import migrate
from modelfleet.identity import approvals as approvals_module
from modelfleet.identity.approvals import Approvals
from modelfleet.registry import BundleStore, Entry, Environment, NewVersion, RegistryService
from modelfleet.rollouts import advance, freezes, moving, service, store
from modelfleet.rollouts.advance import Admission
from modelfleet.rollouts.analysis import Analysis, Arm, Tick
from modelfleet.rollouts.freezes import FreezeService
from modelfleet.rollouts.plan import (
    FULL,
    Approve,
    ArmSpec,
    Bandit,
    Limits,
    Preview,
    Spec,
    Step,
    Strategy,
)
from modelfleet.rollouts.service import Member, RolloutService
from modelfleet.rollouts.windows import Window
from modelfleet.serving import endpoints as endpoints_module
from modelfleet.serving import pools, routing
from modelfleet.serving.endpoints import EndpointService, Route
from modelfleet.serving.gateway import GatewayConfig
from modelfleet.serving.traffic import Sticky
from modelfleet_worker.wire.desired import PoolSpec, VersionSpec

SECOND = 1_000_000
BATCH = 50
"""histories of one world"""
FAULTY_ROUNDS = 45
LAST_ROUNDS = 110
MODELS = BATCH
VERSIONS = ("1.0.0", "1.1.0", "1.2.0")
CLOCKED = (advance, freezes, moving, service, store, approvals_module, endpoints_module, audit)
DORA = Principal("dora-id", "dora", (Grant(Role.DEPLOYER),))
AMY = Principal("amy-id", "amy", (Grant(Role.APPROVER),))
INFO = (
    b'{"format":1,"runtime":"sklearn","artifact":"m","signature":{"inputs":[{"name":"x",'
    b'"datatype":"FP64","shape":[-1,2]}],"outputs":[{"name":"y","datatype":"FP64","shape":[-1]}]}}'
)
LOOSE = Analysis(errors_max_increase=0.05, latency_max_ratio=None, predictions_max_distance=None)
SHIFTS = replace(LOOSE, predictions_max_distance=0.2)


class Died(BaseException):
    """The process is gone."""


# Where processes die -----------------------------------------------------------------------------

_ROOT = Path(modelfleet.__file__).parent
_TRACED = frozenset(
    {str(one) for one in (_ROOT / "rollouts").glob("*.py")}
    | {str(_ROOT / "serving" / name) for name in ("routing.py", "pools.py", "endpoints.py")}
    | {str(_ROOT / "identity" / "approvals.py"), __file__}
)


class Killer:
    """Raises `Died` at the n-th line that is run of the traced modules."""

    def __init__(self, lines: int) -> None:
        self.left = lines
        self.where = ""

    @contextmanager
    def armed(self) -> Iterator[None]:
        sys.settrace(self._called)
        try:
            yield
        finally:
            sys.settrace(None)

    def _called(self, frame: FrameType, event: str, _: Any) -> Any:
        return self._line if frame.f_code.co_filename in _TRACED else None

    def _line(self, frame: FrameType, event: str, _: Any) -> Any:
        if event == "line":
            self.left -= 1
            if self.left <= 0:
                self.where = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
                self.left = 1 << 60
                sys.settrace(None)
                raise Died
        return self._line


# One history -------------------------------------------------------------------------------------


@dataclass
class History:
    """One endpoint, and what its new versions are like."""

    name: str
    kinds: tuple[str, ...]
    """of the arms: good, failing, shifted, unloadable"""
    spec: Spec
    dice: random.Random
    gate: str = "passed"
    group: int = -1
    rollouts: list[str] = field(default_factory=list)
    """the last is the one that counts"""
    weights: dict[int, int] = field(default_factory=dict)
    """live traffic as the gateway sends it, by version index"""
    ticks: dict[int, list[Tick]] = field(default_factory=dict)
    """by version index of the arm"""
    aborted: bool = False
    rejected: bool = False
    promoted: bool = False
    started_late: bool = False


def begin(name: str, dice: random.Random) -> History:
    kind = dice.choice(["good", "good", "failing", "shifted", "unloadable"])
    shape = dice.choice(["canary", "canary", "steps", "blue-green", "shadow", "ab", "bandit"])
    analysis = SHIFTS if kind == "shifted" else LOOSE
    common: dict[str, Any] = {
        "analysis": analysis,
        "bake_seconds": 2.0,
        "inconclusive_after_seconds": 40.0,
        "on_inconclusive": dice.choice(["hold", "rollback", "ask"]),
    }
    if dice.random() < 0.3:
        common["sticky"] = Sticky("header", "x-user")
    if dice.random() < 0.3:
        common["gates"] = ({"infrastructure": {}},)
    if dice.random() < 0.2:
        common["limits"] = Limits(errors=0.2)
    kinds: tuple[str, ...] = (kind,)
    seconds = dice.choice([0.0, 2.0])
    match shape:
        case "canary":
            weights = dice.choice([(5000,), (2500, 5000)])
            spec = Spec(weights=weights, step_seconds=seconds, **common)
        case "steps":
            first = dice.choice(
                [
                    Step(shadow=FULL, seconds=1.0),
                    Step(preview=Preview(header="x-test", equals="1"), seconds=1.0),
                    Step(approve=Approve()),
                    Step(pause=True),
                ]
            )
            last = dice.choice([(Step(approve=Approve()),), (Step(pause=True),), ()])
            steps = (first, Step(weight=5000, seconds=seconds), *last)
            common["analysis"] = replace(analysis, disagreements_max=None)
            spec = Spec(steps=steps, **common)
        case "blue-green":
            if kind == "shifted":
                kinds = ("good",)
            spec = Spec(strategy=Strategy.BLUE_GREEN, **common)
        case "shadow":
            if kind == "shifted":
                kinds = ("good",)
            common["analysis"] = replace(LOOSE, disagreements_max=None)
            spec = Spec(strategy=Strategy.SHADOW, step_seconds=seconds, **common)
        case _:
            kinds = (kind, dice.choice(["good", "failing"]))
            arms = (ArmSpec("1.1.0", 3000), ArmSpec("1.2.0", 3000))
            bandit = Bandit(every_seconds=3.0, floor=1000, seed=dice.randrange(1000))
            common["on_inconclusive"] = "rollback"
            spec = Spec(
                strategy=Strategy.AB,
                arms=arms,
                step_seconds=3.0,
                bandit=bandit if shape == "bandit" else None,
                **common,
            )
    gate = "passed"
    if spec.gates:
        gate = dice.choice(["passed", "passed", "failed"])
    return History(name, kinds, spec, dice, gate)


# The world ---------------------------------------------------------------------------------------


class StaleAdvancer(advance.Advancer):
    """Between its reading and its writing others may act."""

    between: Callable[[], None] | None = None

    def _look(self) -> Any:
        found = super()._look()
        if self.between is not None:
            between, self.between = self.between, None
            between()
        return found


@dataclass
class Gateway:
    running: GatewayConfig = field(default_factory=lambda: GatewayConfig(0))
    told: int = 0
    """the revision that it was last heard to run"""
    waiting: list[tuple[int, GatewayConfig]] = field(default_factory=list)
    """(round at which it takes it, configuration)"""


class World:
    """One home with `BATCH` endpoints; what is on disk is what survives a death."""

    def __init__(self, folder: Path, seed: int, faults: bool = True) -> None:
        self.seed = seed
        self.dice = random.Random(seed)
        self.faults = faults
        self.now = 1_800_000_000 * SECOND
        self.rounds = 0
        self.newest = -1
        self.deaths: Counter[str] = Counter()
        self.violations: list[str] = []
        self.database = Database(folder / "fleet.db")
        sa.event.listen(self.database.engine, "connect", _careless)
        self.registry = RegistryService(
            self.database,
            BundleStore(Layout(folder), FolderBlobStore(folder / "blobs")),
            LocalJobRunner(self.database, {}),
        )
        self.gateway = Gateway()
        self.config = GatewayConfig(0)  # on disk
        self.desired: dict[str, PoolSpec] = {}  # on disk
        self.loaded: dict[tuple[str, int], int] = {}
        """(pool, version index) to the round at which it was loaded"""
        self.acked: dict[str, int] = {}
        self.load_errors: Mapping[int, str] = {}
        self.frozen = False
        self.lines = 4000
        self.places: dict[str, str] = {}
        self.gated: dict[int, History] = {}
        with clocked(self):
            self.reborn()
            self._index()
            self.histories = self._begin()
        self.by_name = {one.name: one for one in self.histories}

    def reborn(self) -> None:
        """The control plane of a new process."""
        self.registry._ready.clear()
        self.approvals = Approvals(self.database)
        self.endpoints = EndpointService(self.database, 1000)
        self.rollouts = self._service()
        self.load_errors = {}

    def _service(self) -> RolloutService:
        made = RolloutService(
            self.database,
            self.registry,
            self.endpoints,
            self,
            approvals=self.approvals,
            gatekeeper=self,
        )
        advancer = StaleAdvancer(
            self.database, self.registry, self.endpoints, self, self.approvals, self
        )
        made._advancer = advancer
        self.advancer = advancer
        return made

    def _index(self) -> None:
        with self.database.read() as connection:
            found = self.registry_rows(connection)
        self.versions = found
        """(model, semantic version) to version index"""
        self.kind_of: dict[int, str] = {}
        self.sockets_of = ("/run/worker.sock",)

    def registry_rows(self, connection: sa.Connection) -> dict[tuple[str, str], int]:
        from modelfleet.registry.tables import model, model_version

        query = sa.select(model.c.name, model_version.c.semver, model_version.c.number).join(
            model, model.c.id == model_version.c.model_id
        )
        return {(r.name, r.semver): r.number for r in connection.execute(query)}

    def _begin(self) -> list[History]:
        found = []
        pair: list[History] = []
        for number in range(BATCH):
            dice = random.Random(self.dice.random())
            history = begin(f"m{number}", dice)
            if pair or (number < BATCH - 1 and dice.random() < 0.06):
                spec = Spec(weights=(5000,), step_seconds=0, bake_seconds=2, analysis=LOOSE)
                kind = "good" if dice.random() < 0.6 else "failing"
                history = History(history.name, (kind,), spec, dice, group=number)
                pair.append(history)
                if len(pair) == 2:
                    self._start_group(pair)
                    pair = []
            else:
                self._start(history)
            found.append(history)
        if self.dice.random() < 0.5:
            self._freeze()
        return found

    def _freeze(self) -> None:
        start, end = self.now + 8 * SECOND, self.now + 20 * SECOND
        from modelfleet.core.clock import iso

        window = Window(begins=iso(start), ends=iso(end), reason="the sale")
        FreezeService(self.database, self.endpoints).create(SYSTEM, "sale", window)
        self.sale = (start, end)

    sale = (0, 0)
    jumped_back = False

    def _know(self, history: History) -> None:
        for kind, version in zip(history.kinds, VERSIONS[1:], strict=False):
            self.kind_of[self.versions[(history.name, version)]] = kind
        index = self.versions[(history.name, "1.1.0")]
        self.gated[index] = history

    def _start(self, history: History) -> None:
        self._know(history)
        made = self.rollouts.start(DORA, history.name, history.name, "1.1.0", history.spec)
        history.rollouts.append(made.id)

    def _start_group(self, pair: Sequence[History]) -> None:
        for one in pair:
            one.group = pair[0].group
            self._know(one)
        members = [Member(one.name, "1.1.0") for one in pair]
        made = self.rollouts.start_group(DORA, members, pair[0].spec)
        for one, started in zip(pair, made, strict=True):
            one.rollouts.append(started.id)

    # Gates ---------------------------------------------------------------------------------------

    def look(self, connection: sa.Connection, rollout: store.Row) -> Admission:
        history = self.by_name[rollout.endpoint]
        if self.faults and history.dice.random() < 0.5:
            return Admission("waiting", "They run.")
        return Admission(history.gate, "They ended.", "e" * 8)  # type: ignore[arg-type]

    # The collector -------------------------------------------------------------------------------

    def tick_at(self, moment_us: int) -> int:
        return 2 * (moment_us // SECOND) + 1

    def latency(self, version: int, before_us: int) -> tuple[int, ...]:
        return ()

    def closed_tick(self) -> int:
        return self.newest

    def ticks(self, stable: int, canary: int, after: int) -> Sequence[Tick]:
        history = self.owner[canary]
        closed = [t for t in history.ticks.get(canary, ()) if after < t.number <= self.newest]
        if self.faults and history.dice.random() < 0.1:  # the same again
            closed = [one for tick in closed for one in (tick, tick)]
        return closed

    @property
    def owner(self) -> dict[int, History]:
        if not hasattr(self, "_owner"):
            self._owner = {
                self.versions[(one.name, version)]: one
                for one in self.histories
                for version in VERSIONS
            }
        return self._owner

    def _collect(self, history: History, shadows: Mapping[int, int]) -> None:
        second = self.now // SECOND
        late = self.faults and history.dice.random() < 0.1
        number = 2 * second + (1 if late else 0)
        stable = self.versions[(history.name, "1.0.0")]
        for version in VERSIONS[1:]:
            index = self.versions[(history.name, version)]
            ticks = history.ticks.setdefault(index, [])
            if ticks:  # while the clock is behind, what is told comes late
                number = max(number, ticks[-1].number + 1)
            mirrored = shadows.get(index, 0)
            n = 400 * (mirrored or history.weights.get(index, 0)) // FULL
            kind = self.kind_of.get(index, "good")
            errors = int(n * 0.5) if kind == "failing" else 0
            m = 400 * history.weights.get(stable, 0) // FULL
            scores = _scores(n - errors, 15 if kind == "shifted" else 0)
            arm = Arm(n, errors, (), scores)
            tick = Tick(number, Arm(m, 0, (), _scores(m, 0)), arm, min(n, m) if mirrored else 0)
            ticks.append(tick)

    # Workers and gateway -------------------------------------------------------------------------

    def _work(self) -> None:
        """Workers load what their files say; they die, and load it again."""
        for pool, spec in self.desired.items():
            if self.faults and self.dice.random() < 0.02:
                self.acked.pop(pool, None)
                for one in [key for key in self.loaded if key[0] == pool]:
                    del self.loaded[one]
                continue
            if self.faults and self.dice.random() < 0.4:
                continue
            held = {v.index for v in spec.versions}
            for index in held:
                if self.kind_of.get(index) != "unloadable":
                    self.loaded.setdefault((pool, index), self.rounds)
            for key in [k for k in self.loaded if k[0] == pool and k[1] not in held]:
                del self.loaded[key]
            self.acked[pool] = spec.revision
        for pool in [one for one in self.acked if one not in self.desired]:
            del self.acked[pool]
            for key in [k for k in self.loaded if k[0] == pool]:
                del self.loaded[key]

    def _observe(self, planned: Mapping[str, PoolSpec]) -> pools.Residency:
        ready: set[tuple[str, int]] = set()
        failed: dict[int, str] = {}
        for pool, spec in planned.items():
            if self.acked.get(pool, -1) < spec.revision:
                continue
            for one in spec.versions:
                if (pool, one.index) in self.loaded:
                    ready.add((pool, one.index))
                else:
                    failed[one.index] = "no such file"
        return pools.Residency(frozenset(ready), failed)

    def _serve(self) -> None:
        """The gateway takes what was written, in its order, sooner or later."""
        gateway = self.gateway
        due = [one for one in gateway.waiting if one[0] <= self.rounds]
        if due:
            newest = max((one for _, one in due), key=lambda one: one.revision)
            before, gateway.running = gateway.running, newest
            gateway.waiting = [one for one in gateway.waiting if one[1].revision > newest.revision]
            self._check_moved(before, gateway.running)
        if not self.faults or self.dice.random() < 0.7:  # the answer can be lost
            gateway.told = gateway.running.revision
        for history in self.histories:
            history.weights = {}
        for routes in gateway.running.endpoints:
            history = self.by_name[routes.name]
            history.weights = {t.version_index: t.weight for t in routes.targets}

    # The control plane ---------------------------------------------------------------------------

    def reconcile(self) -> None:
        """As `reconcile.loop` and `reconcile.traffic` do it, with the same pure functions."""
        self.rollouts.advance(self.load_errors)
        rows = self.rollouts.active()
        places = self.endpoints.all()
        wanted = {v for one in places for v in one.version_ids}
        wanted |= {v for row in rows for v in row.version_ids}
        versions = self.registry.versions_by_id(sorted(wanted))
        promoted = {one.stable_version_id for one in places}
        promoted |= {row.from_version_id for row in rows}
        demands = [
            pools.Demand(
                VersionSpec(one.index, one.model, one.version, one.sequence, "d", "p", "source"),
                None,
                "python",
                one.id in promoted,
            )
            for one in versions.values()
        ]
        before = dict(self.desired)
        acknowledged = self.gateway.told == self.config.revision
        planned = pools.plan(
            demands,
            routing.held(self.config, acknowledged, before),
            before,
            replicas=1,
            memory_mb=100,
            first_revision=self.now,
        )
        self.desired = dict(planned)
        residency = self._observe(planned)
        self.load_errors = residency.failed
        plan = routing.plan(
            places,
            versions,
            {one.version.index: one.home for one in demands},
            residency,
            dict.fromkeys(planned, self.sockets_of),
            (),
            self.config,
        )
        if plan.config.revision != self.config.revision:
            self.config = plan.config
        if self.gateway.told != self.config.revision:
            delay = self.dice.randrange(3) if self.faults else 0
            known = [one.revision for _, one in self.gateway.waiting]
            if self.config.revision not in (*known, self.gateway.running.revision):
                self.gateway.waiting.append((self.rounds + delay, self.config))
        else:
            known_revisions = {one.id: one.applied_revision for one in places}
            self.endpoints.mark_applied(
                {e: r for e, r in plan.applied.items() if known_revisions.get(e) != r}
            )

    # People --------------------------------------------------------------------------------------

    def _people(self, history: History) -> None:
        fate = history.dice.random()
        rollout = history.rollouts[-1]
        try:
            if history.aborted:
                self.rollouts.abort(DORA, rollout)
            elif fate < 0.004:
                self.rollouts.abort(DORA, rollout)
                history.aborted = True
            elif fate < 0.02:
                self.rollouts.pause(DORA, rollout)
            elif fate < 0.10:
                self.rollouts.resume(DORA, rollout)
            elif fate < 0.104:
                self.rollouts.promote(DORA, rollout, "we know it")
                history.promoted = True
            elif fate < 0.107 and history.group < 0:
                made = self.rollouts.start(
                    DORA, history.name, history.name, "1.1.0", history.spec, supersede=True
                )
                history.rollouts.append(made.id)
                history.promoted = history.aborted = history.rejected = False
            elif fate < 0.115 and history.group < 0:
                made = self.rollouts.retry(DORA, rollout)
                history.rollouts.append(made.id)
                history.promoted = history.aborted = history.rejected = False
        except FleetError:
            return  # too late, or not the moment: people are told, nothing happens

    def _approvers(self) -> None:
        for one in self.approvals.list(AMY, state="waiting"):
            history = next((h for h in self.histories if h.rollouts[-1] in one.subject), None)
            if history is None or (self.faults and history.dice.random() < 0.6):
                continue
            no = history.dice.random() < 0.06
            try:
                self.approvals.answer(AMY, one.id, approve=not no)
            except FleetError:
                continue
            history.rejected |= no

    # One round -----------------------------------------------------------------------------------

    def round(self) -> None:
        self.rounds += 1  # seconds by a clock that never jumps
        self.now += SECOND
        if self.faults and self.dice.random() < 0.02:
            jump = self.dice.choice([-5, -1, 3, 20])
            self.now += jump * SECOND
            self.jumped_back |= jump < 0
        if not self.faults or self.dice.random() < 0.4:  # the collector is late
            self.newest = max(self.newest, 2 * (self.now // SECOND) - 2)
        before = self._weights() if self._is_frozen() else None
        active = {row.endpoint for row in self._active()}
        for history in self.histories:
            if history.name in active and self.faults:
                self._mortal(lambda history=history: self._people(history), 0.01)
        self._mortal(self._approvers, 0.05)
        if self.faults and self.dice.random() < 0.15:
            self.advancer.between = self._others
        self._mortal(self.reconcile, 0.3)
        self._work()
        self._serve()
        shadows = {s.version_index: s.fraction for s in self._shadows()}
        for history in self.histories:
            if history.name in active:
                self._collect(history, shadows)
        self._check(before)

    def _shadows(self) -> Iterator[Any]:
        for one in self.gateway.running.endpoints:
            yield from one.shadows

    def _others(self) -> None:
        """Another control plane, which believes that it leads; or people who are quick."""
        if self.dice.random() < 0.5:
            other = RolloutService(
                self.database,
                self.registry,
                self.endpoints,
                self,
                approvals=self.approvals,
                gatekeeper=self,
            )
            other.active()
            other.advance(self.load_errors)
        else:
            for history in self.histories:
                self._people(history)

    def _mortal(self, part: Callable[[], None], chance: float) -> None:
        """The process may die at any line of it."""
        if not self.faults or self.dice.random() >= chance:
            part()
            return
        killer = Killer(self.dice.randrange(1, self.lines if chance > 0.1 else 400))
        try:
            with killer.armed():
                part()
        except Died:
            self.deaths[killer.where] += 1
            self.reborn()
        else:
            if chance > 0.1:  # it survived: there are fewer lines than that
                self.lines = max(500, self.lines * 3 // 4)
            return
        if chance > 0.1:
            self.lines = min(60_000, self.lines * 5 // 4)

    # What must hold ------------------------------------------------------------------------------

    def _active(self) -> Sequence[sa.Row[Any]]:
        query = sa.select(store.rollout.c.endpoint, store.rollout.c.endpoint_id).where(
            store.rollout.c.ended_at.is_(None)
        )
        with self.database.read() as connection:
            return connection.execute(query).all()

    def _is_frozen(self) -> bool:
        return self.sale[0] <= self.now < self.sale[1]

    def _weights(self) -> dict[str, int]:
        """What goes to new versions, by endpoint, as the database wants it."""
        found = {}
        for place in self.endpoints.all():
            index = self.versions[(place.name, "1.0.0")]
            versions = self.registry.versions_by_id([r.version_id for r in place.routes])
            found[place.name] = sum(
                r.weight for r in place.routes if versions[r.version_id].index != index
            )
        return found

    def _broken(self, name: str, what: str) -> None:
        self.violations.append(f"seed {self.seed}, round {self.rounds}, {name}: {what}")

    def _check(self, before: Mapping[str, int] | None) -> None:
        twice = [n for n, count in Counter(r.endpoint for r in self._active()).items() if count > 1]
        for name in twice:
            self._broken(name, "two rollouts run")
        for place in self.endpoints.all():
            if sum(route.weight for route in place.routes) != FULL:
                self._broken(place.name, "weights do not add up")
        for routes in self.gateway.running.endpoints:
            self._check_routes(routes)
        if before is not None and self._is_frozen():
            for name, weight in self._weights().items():
                if weight > before[name]:
                    self._broken(name, "it advanced in a freeze window")

    def _check_routes(self, routes: Any) -> None:
        if sum(target.weight for target in routes.targets) != FULL:
            self._broken(routes.name, "the gateway's weights do not add up")
        history = self.by_name[routes.name]
        ruled = {rule.version_index for rule in routes.rules}
        for target in routes.targets:
            gets = target.weight > 0 or target.version_index in ruled
            key = (target.pool, target.version_index)
            held = self.desired.get(target.pool)
            if gets and (held is None or all(v.index != key[1] for v in held.versions)):
                self._broken(routes.name, f"capacity of {key} was taken while it gets traffic")
            is_new = target.version_index != self.versions[(routes.name, "1.0.0")]
            if gets and is_new and history.spec.gates and history.gate != "passed":
                self._broken(routes.name, "a version with traffic did not pass its gates")

    def _check_moved(self, before: GatewayConfig, after: GatewayConfig) -> None:
        """Traffic goes only where something was loaded, or is being loaded again."""
        known = {(t.pool, t.version_index) for e in before.endpoints for t in e.targets}
        for routes in after.endpoints:
            for target in routes.targets:
                key = (target.pool, target.version_index)
                if target.weight and key not in known and self.kind_of.get(key[1]) == "unloadable":
                    self._broken(routes.name, "traffic moved to what is not loaded")
                is_there = key in self.loaded or self.acked.get(target.pool) is None
                if target.weight and key not in known and not is_there:
                    self._broken(routes.name, f"traffic moved to {key} before it was ready")

    def check_end(self) -> None:
        with self.database.read() as connection:
            rows = connection.execute(sa.select(store.rollout)).mappings().all()
            by_id = {row["id"]: row for row in rows}
            evidence = {
                (r.rollout_id, r.arm): []
                for r in connection.execute(
                    sa.select(store.evidence.c.rollout_id, store.evidence.c.arm).distinct()
                )
            }
            for r in connection.execute(
                sa.select(store.evidence.c.rollout_id, store.evidence.c.arm, store.evidence.c.tick)
            ):
                evidence[(r.rollout_id, r.arm)].append(r.tick)
            moved = {
                (r.rollout_id, r.state)
                for r in connection.execute(
                    sa.select(store.move.c.rollout_id, store.move.c.state).distinct()
                )
            }
        places = {one.name: one for one in self.endpoints.all()}
        for history in self.histories:
            row = by_id[history.rollouts[-1]]
            self._check_one_end(history, row, places[history.name])
            self._check_ticks(history, row, evidence, moved)
        for group in {one.group for one in self.histories if one.group >= 0}:
            states = {
                by_id[one.rollouts[-1]]["state"] for one in self.histories if one.group == group
            }
            if "succeeded" in states and len(states) > 1:
                self._broken(f"group {group}", f"it ended in two ways: {sorted(states)}")
        if audit.first_broken(self.database) is not None:
            self._broken("audit", "the chain is broken")

    def _check_one_end(self, history: History, row: Mapping[str, Any], place: Any) -> None:
        state = row["state"]
        told = f"{history.kinds} {history.spec.strategy.value} {row['sentence']!r}"
        if row["ended_at"] is None:
            if self.jumped_back and "not split" in row["waits"]:
                return  # ticks of before were told for after: it holds, as planned, for a person
            self._broken(history.name, f"it never ends: {state} {row['waits']!r} {told}")
            return
        versions = self.registry.versions_by_id([r.version_id for r in place.routes])
        serving = {versions[r.version_id].index: r.weight for r in place.routes}
        stable = self.versions[(history.name, "1.0.0")]
        went = row["from_version_id"]
        first = self.registry.versions_by_id([went])[went].index if went else stable
        won = self.registry.versions_by_id([row["to_version_id"]])[row["to_version_id"]].index
        if state == "succeeded" and serving not in ({won: FULL}, {first: FULL}):
            self._broken(history.name, f"it serves {serving} {told}")
        if state != "succeeded" and serving != {first: FULL}:
            self._broken(history.name, f"it went back but serves {serving} {told}")
        if not self._expected(history, row, {k for k, w in serving.items() if w}):
            self._broken(history.name, f"it ended as {state} {told}")

    def _expected(self, history: History, row: Mapping[str, Any], serving: set[int]) -> bool:
        """Whether the same history without faults, or people, could have ended so."""
        state = row["state"]
        people = history.aborted or history.rejected
        if any(one.aborted or one.rejected for one in self._mates(history)):
            people = True
        failed_gate = bool(history.spec.gates) and history.gate == "failed"
        if failed_gate:
            return state in ("rolled_back", "cancelled")
        if (row["notes"] or {}).get("asked", -1) >= 0:
            return True  # a person said what to do without a proof
        if history.promoted or any(one.promoted for one in self._mates(history)):
            return True  # by hand: the bake may still take it back
        if people and state != "succeeded":
            return state in ("rolled_back", "cancelled")
        kinds = {kind for one in (history, *self._mates(history)) for kind in one.kinds}
        if history.spec.arms:
            served = {self.kind_of.get(one, "good") for one in serving}
            if state == "succeeded":
                return served == {"good"}
            return "good" not in history.kinds or history.spec.on_inconclusive != "hold"
        if kinds == {"good"}:
            patient = history.spec.on_inconclusive == "hold"
            return state == "succeeded" or not patient
        return state == "rolled_back"

    def _mates(self, history: History) -> list[History]:
        return [
            one
            for one in self.histories
            if history.group >= 0 and one.group == history.group and one is not history
        ]

    def _check_ticks(
        self,
        history: History,
        row: Mapping[str, Any],
        evidence: Mapping[tuple[str, int], list[int]],
        moved: set[tuple[str, str]],
    ) -> None:
        """What was counted is what the collector told, once."""
        judges = row["judge"] if isinstance(row["judge"], list) else [row["judge"]]
        for arm, judge in enumerate(judges):
            index = self.versions[(history.name, VERSIONS[arm + 1])]
            told = {t.number: t.canary.requests for t in history.ticks.get(index, ())}
            counted = judge["hard"][0]
            most = sum(n for number, n in told.items() if number <= judge["last_tick"])
            if counted > most:
                self._broken(history.name, f"{counted} requests counted of {most}")
            read = evidence.get((row["id"], arm), [])
            if (row["id"], "baking") not in moved and counted != sum(told[n] for n in read):
                self._broken(history.name, "evidence and counts differ")


def _scores(n: int, bin_: int) -> tuple[int, ...]:
    return tuple(n if k == bin_ else 0 for k in range(16))


def _careless(connection: Any, _: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA synchronous=OFF")
    cursor.close()


@contextmanager
def clocked(world: World) -> Iterator[None]:
    """Everybody sees the time of the world."""
    before = {module: module.now_us for module in CLOCKED}
    looks, advance._GATES_SECONDS = advance._GATES_SECONDS, 0.0
    watch, advance.monotonic = advance.monotonic, lambda: float(world.rounds)  # type: ignore[attr-defined]
    for module in CLOCKED:
        module.now_us = lambda: world.now  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for module, real in before.items():
            module.now_us = real  # type: ignore[attr-defined]
        advance._GATES_SECONDS = looks
        advance.monotonic = watch  # type: ignore[attr-defined]


def template(folder: Path) -> None:
    """A home with models, versions, and endpoints that serve the first of them."""
    folder.mkdir(parents=True, exist_ok=True)
    database = Database(folder / "fleet.db")
    sa.event.listen(database.engine, "connect", _careless)
    migrate(database)
    blobs = FolderBlobStore(folder / "blobs")
    bundles = BundleStore(Layout(folder), blobs)
    registry = RegistryService(database, bundles, LocalJobRunner(database, {}))
    endpoints = EndpointService(database, 1000)
    environment = Environment("e" * 64, "3.11", "linux", "numpy==2")
    for k in range(MODELS):
        name = f"m{k}"
        registry.create_model(SYSTEM, name, owner_team="growth")
        ids = []
        for number in VERSIONS:
            parts = {"bundle.json": INFO, "m": f"{name} {number}".encode()}
            entries = tuple(Entry(path, *blobs.put([data])) for path, data in parts.items())
            made = registry.register(
                SYSTEM, name, NewVersion(entries, ("numpy",), "3.11", version=number)
            )
            registry.mark_ready(SYSTEM, made, environment, [], "source")
            ids.append(made.id)
        place = endpoints.create(SYSTEM, name, name)
        with database.begin() as connection:
            endpoints.set_routes(
                connection, place.id, [Route(ids[0], FULL)], stable_version_id=ids[0]
            )
    database.close()


def run(folder: Path, seed: int, faults: bool = True) -> World:
    """One world from its beginning to its end; `violations` says what did not hold."""
    world = World(folder, seed, faults)
    with clocked(world):
        for number in range(FAULTY_ROUNDS + LAST_ROUNDS):
            if number == FAULTY_ROUNDS:
                world.faults = False
            if not world.faults and number % 10 == 0:
                _let_go(world)
            world.round()
            if not world._active():
                break
        world.faults = False
        for _ in range(3):
            world.round()
        world.check_end()
    world.database.close()
    return world


def _let_go(world: World) -> None:
    """People don't leave a rollout paused, or frozen, for ever."""
    for row in world.rollouts.active():
        history = world.by_name[row.endpoint]
        try:
            if history.aborted:
                world.rollouts.abort(DORA, row.id)
            elif row.desired == "pause":
                world.rollouts.resume(DORA, row.id)
        except FleetError:
            continue


def one_world(home: Path, seed: int) -> tuple[int, list[str], int]:
    """In a folder of its own: histories, violations, deaths."""
    with tempfile.TemporaryDirectory(prefix="simulate-") as folder:
        shutil.copy(home / "fleet.db", Path(folder) / "fleet.db")
        world = run(Path(folder), seed)
    return len(world.histories), world.violations, sum(world.deaths.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--histories", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1, help="of the first world")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    worlds = -(-arguments.histories // BATCH)
    began = time.monotonic()
    histories = deaths = 0
    seeds: list[int] = []
    with tempfile.TemporaryDirectory(prefix="simulate-") as folder:
        home = Path(folder) / "template"
        template(home)
        numbers = range(arguments.seed, arguments.seed + worlds)
        with ProcessPoolExecutor(arguments.workers) as executor:
            results = executor.map(one_world, [home] * worlds, numbers)
            for seed, (count, violations, died) in zip(numbers, results, strict=True):
                histories, deaths = histories + count, deaths + died
                seeds += [seed] * len(violations)
                for one in violations:
                    print(one, file=sys.stderr)
                if seed % 10 == 0:
                    took = time.monotonic() - began
                    print(f"{histories} histories, {took:.0f} s", file=sys.stderr)
    found = {
        "histories": histories,
        "violations": len(seeds),
        "seed": seeds,
        "deaths": deaths,
        "seconds": round(time.monotonic() - began, 1),
    }
    print(json.dumps(found))
    sys.exit(1 if seeds else 0)


if __name__ == "__main__":
    main()
