"""Many histories of many rollouts at once, each with faults drawn from a seed.

The process dies before or after any commit and comes back with nothing but its database; the
gateway acknowledges late or forgets; ticks are read late, in heaps and again; the canary can't be
loaded or dies; people pause, resume and abort. Histories end as the same ones do without faults.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa

from modelfleet.core import audit
from modelfleet.core.authorization import SYSTEM
from modelfleet.core.blobs import FolderBlobStore
from modelfleet.core.database import Database
from modelfleet.core.jobs import LocalJobRunner
from modelfleet.core.layout import Layout
from modelfleet.registry import BundleStore, Entry, Environment, NewVersion, RegistryService
from modelfleet.rollouts import service as service_module
from modelfleet.rollouts import store
from modelfleet.rollouts.analysis import Analysis, Arm, Tick
from modelfleet.rollouts.judge import JudgeState
from modelfleet.rollouts.plan import Spec, Strategy
from modelfleet.rollouts.service import RolloutService
from modelfleet.rollouts.step import ENDED
from modelfleet.serving.endpoints import FULL, Endpoint, EndpointService

HISTORIES = int(os.environ.get("MODELFLEET_HISTORIES", "160"))
BATCH = 40
INFO = (
    b'{"format":1,"runtime":"sklearn","artifact":"m","signature":{"inputs":[{"name":"x",'
    b'"datatype":"FP64","shape":[-1,2]}],"outputs":[{"name":"y","datatype":"FP64","shape":[-1]}]}}'
)
SECOND = 1_000_000


class Died(BaseException):
    """The process is gone."""


class FaultyDatabase(Database):
    """Dies now and then, just before a commit or just after it."""

    dice: random.Random | None = None
    deaths = 0

    @contextmanager
    def begin(self) -> Iterator[sa.Connection]:
        fate = self.dice.random() if self.dice else 1.0
        with super().begin() as connection:
            yield connection
            self._die_if(fate < 0.04)
        self._die_if(0.04 <= fate < 0.08)

    def _die_if(self, now: bool) -> None:
        if now:
            self.deaths += 1
            raise Died


@dataclass
class History:
    """One endpoint and what its new version is like."""

    name: str
    kind: str
    spec: Spec
    dice: random.Random
    rollout: str = ""
    stable: int = 0
    canary: int = 0
    weights: dict[int, int] = field(default_factory=dict)
    """what the gateway runs, by version index"""
    ticks: list[Tick] = field(default_factory=list)
    aborted: bool = False

    @property
    def promotes(self) -> bool:
        return self.kind == "good" and not self.aborted


class World:
    """Gateway and collector of all histories; time is the world's own."""

    def __init__(self, folder: Path, seed: int, faults: bool) -> None:
        self.dice = random.Random(seed)
        self.faults = faults
        self.now = 1_000_000 * SECOND
        self.newest = -1
        self.database = FaultyDatabase(folder / "fleet.db")
        sa.event.listen(self.database.engine, "connect", _careless)
        self.registry = RegistryService(
            self.database,
            BundleStore(Layout(folder), FolderBlobStore(folder / "blobs")),
            LocalJobRunner(self.database, {}),
        )
        self.blobs = FolderBlobStore(folder / "blobs")
        self.endpoints = EndpointService(self.database, 1000)
        self.rollouts = RolloutService(self.database, self.registry, self.endpoints, self)
        self.histories = [self._begin(k) for k in range(BATCH)]
        self.by_pair = {(h.stable, h.canary): h for h in self.histories}
        if faults:
            self.database.dice = random.Random(seed + 1)

    def _begin(self, number: int) -> History:
        dice = random.Random(self.dice.random())
        kind = dice.choice(["good", "good", "failing", "shifted", "unloadable", "dying"])
        strategy = dice.choice([Strategy.CANARY, Strategy.CANARY, Strategy.BLUE_GREEN])
        if kind == "shifted":
            strategy = Strategy.CANARY  # nothing but a concurrent arm can show it
        spec = Spec(
            strategy=strategy,
            weights=dice.choice([(5000,), (2500, 5000)]),
            step_seconds=dice.choice([0.0, 3.0]),
            bake_seconds=3.0,
            analysis=Analysis(latency_max_ratio=None),
        )
        name = f"m{number}"
        history = History(name, kind, spec, dice)
        self.registry.create_model(SYSTEM, name, owner_team="growth")
        first, second = (self._version(name, v) for v in ("1.0.0", "1.1.0"))
        first_id = self.registry.versions_by_index([first])[first].id
        started = self.rollouts.start(
            SYSTEM, name, name, "1.0.0", Spec(strategy=Strategy.IMMEDIATE)
        )
        for _ in range(3):
            self._advance(started.id, {})
            self._acknowledge_all()
        assert self.endpoints.get(SYSTEM, name).stable_version_id == first_id
        history.stable, history.canary = first, second
        history.weights = {first: FULL}
        history.rollout = self.rollouts.start(SYSTEM, name, name, "1.1.0", spec).id
        return history

    def _version(self, model: str, number: str) -> int:
        parts = {"bundle.json": INFO, "m": f"{model} {number}".encode()}
        entries = tuple(Entry(path, *self.blobs.put([data])) for path, data in parts.items())
        new = NewVersion(entries, ("numpy",), "3.11", version=number)
        made = self.registry.register(SYSTEM, model, new)
        environment = Environment("e" * 64, "3.11", "linux", "numpy==2")
        self.registry.mark_ready(SYSTEM, made, environment, [], "source")
        return made.index

    def _acknowledge_all(self) -> None:
        self.endpoints.mark_applied({one.id: one.revision for one in self.endpoints.all()})

    def _advance(self, rollout: str, errors: dict[int, str]) -> None:
        for row in self.rollouts.active():
            if row.id == rollout:
                ids = [v for v in (row.from_version_id, row.to_version_id) if v]
                self.rollouts.advance(row, self.registry.versions_by_id(ids), errors)

    # The collector ------------------------------------------------------------------------------

    def tick_at(self, moment_us: int) -> int:
        return 2 * (moment_us // SECOND) + 1

    def ticks(self, stable: int, canary: int, after: int) -> Sequence[Tick]:
        history = self.by_pair[(stable, canary)]
        closed = [tick for tick in history.ticks if after < tick.number <= self.newest]
        if self.faults and history.dice.random() < 0.1:  # the same again
            closed = [one for tick in closed for one in (tick, tick)]
        return closed

    def closed_tick(self) -> int:
        return self.newest

    def _collect(self, history: History) -> None:
        second = self.now // SECOND
        weight = history.weights.get(history.canary, 0) / FULL
        number = 2 * second + (1 if self.faults and history.dice.random() < 0.1 else 0)
        if not history.ticks or number > history.ticks[-1].number:
            n = int(400 * weight)
            bad = history.kind in ("failing", "dying")
            errors = round(n * (0.3 if history.kind == "failing" else 1.0)) if bad else 0
            scores = (0,) * 15 + (n - errors,) if history.kind == "shifted" else (n - errors,)
            canary = Arm(n, errors, (), scores + (0,) * (16 - len(scores)))
            stable = Arm(400 - n, 0, (), (400 - n,) + (0,) * 15)
            history.ticks.append(Tick(number, stable, canary))

    # The gateway --------------------------------------------------------------------------------

    def _gateway(self, history: History, place: Endpoint) -> None:
        """Runs routes as soon as all versions with traffic are resident."""
        if self.faults and history.dice.random() < 0.4:
            return
        versions = self.registry.versions_by_id([r.version_id for r in place.routes])
        wanted = {versions[r.version_id].index: r.weight for r in place.routes}
        if history.kind == "unloadable" and wanted.get(history.canary, 0):
            return
        history.weights = wanted
        if not (self.faults and history.dice.random() < 0.2):  # the answer can be lost
            self.endpoints.mark_applied({place.id: place.revision})

    # One second ---------------------------------------------------------------------------------

    def round(self) -> None:
        self.now += SECOND
        if not self.faults or self.dice.random() < 0.3:  # the collector is late
            self.newest = 2 * (self.now // SECOND) - 2
        errors = {h.canary: "no such file" for h in self.histories if h.kind == "unloadable"}
        places = {one.name: one for one in self.endpoints.all()}
        active = {row.endpoint: row for row in self.rollouts.active()}
        for history in self.histories:
            if history.name not in active:
                continue
            try:
                self._people(history)
                self._advance_row(active[history.name], errors)
                self._gateway(history, self.endpoints.get(SYSTEM, history.name))
            except Died:
                self.rollouts = RolloutService(self.database, self.registry, self.endpoints, self)
            self._collect(history)
            assert sum(r.weight for r in places[history.name].routes) == FULL
            if history.kind != "good" and history.spec.strategy is Strategy.CANARY:
                assert history.weights.get(history.canary, 0) < FULL

    def _advance_row(self, row: store.Row, errors: dict[int, str]) -> None:
        ids = [v for v in (row.from_version_id, row.to_version_id) if v]
        self.rollouts.advance(row, self.registry.versions_by_id(ids), errors)

    def _people(self, history: History) -> None:
        fate = history.dice.random()
        if not self.faults or fate > 0.06:
            return
        if fate < 0.005:
            history.aborted = True  # even if we die right after, somebody asks again
        if history.aborted:
            self.rollouts.abort(SYSTEM, history.rollout)
        elif fate < 0.03:
            self.rollouts.pause(SYSTEM, history.rollout)
        else:
            self.rollouts.resume(SYSTEM, history.rollout)

    def resume_all(self) -> None:
        """People don't leave a rollout paused for ever."""
        for row in self.rollouts.active():
            history = next(h for h in self.histories if h.name == row.endpoint)
            try:
                verb = self.rollouts.abort if history.aborted else self.rollouts.resume
                if history.aborted or row.desired == "pause":
                    verb(SYSTEM, row.id)
            except Died:
                continue


def _careless(connection: sa.engine.interfaces.DBAPIConnection, _: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA synchronous=OFF")
    cursor.close()


def run(folder: Path, seed: int, faults: bool, monkeypatch: pytest.MonkeyPatch) -> World:
    world = World(folder, seed, faults)
    for module in (service_module, store):
        monkeypatch.setattr(module, "now_us", lambda: world.now)
    for second in range(400):
        world.round()
        if second % 40 == 39:
            world.resume_all()
        if not world.rollouts.active():
            break
    world.database.dice = None
    return world


def check(world: World) -> None:
    assert world.rollouts.active() == []
    for history in world.histories:
        details = world.rollouts.get(SYSTEM, history.rollout, 10_000)
        place = world.endpoints.get(SYSTEM, history.name)
        versions = world.registry.versions_by_id([r.version_id for r in place.routes])
        serving = {versions[r.version_id].index: r.weight for r in place.routes}
        told = (history.kind, history.spec.strategy, history.aborted, details.rollout.sentence)
        ended_well = details.rollout.state == "succeeded"
        if not history.aborted:
            assert ended_well == history.promotes, told
        assert serving == {(history.canary if ended_well else history.stable): FULL}, told
        assert not ended_well or history.kind == "good", told
        _check_moves(world, history, [move.state for move in details.moves])
        _check_ticks(world, history, [one.tick for one in details.evidence])
        if ended_well and history.spec.strategy is Strategy.CANARY:
            assert details.evidence[-1].verdict.finding == "pass"
    assert audit.first_broken(world.database) is None


def _check_moves(world: World, history: History, states: list[str]) -> None:
    ended = {state.value for state in ENDED}
    assert states[0] == "pending"
    assert [state in ended for state in states] == [False] * (len(states) - 1) + [True]
    if "rolling_back" in states:
        assert states[-2:] == ["rolling_back", "rolled_back"]


def _check_ticks(world: World, history: History, read: list[int]) -> None:
    """Each tick is there once, and is counted once."""
    assert read == sorted(set(read))
    with world.database.read() as connection:
        raw = connection.execute(
            sa.select(store.rollout.c.judge).where(store.rollout.c.id == history.rollout)
        ).scalar_one()
        moves = {one.state for one in store.moves(connection, history.rollout)}
    if "baking" not in moves:  # there ticks are counted without a verdict
        counted = sum(t.canary.requests for t in history.ticks if t.number in set(read))
        assert msgspec.convert(raw, JudgeState).hard[0] == counted


@pytest.mark.parametrize("batch", range(max(HISTORIES // BATCH, 1)))
def test_faulty_histories_end_like_the_others(
    tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    shutil.copy(empty_database, tmp_path / "fleet.db")
    world = run(tmp_path, 1000 + batch, True, monkeypatch)
    assert world.database.deaths > 20
    check(world)
    world.database.close()


def test_the_same_histories_without_faults(
    tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(empty_database, tmp_path / "fleet.db")
    world = run(tmp_path, 1000, False, monkeypatch)
    assert world.database.deaths == 0
    check(world)
    world.database.close()
