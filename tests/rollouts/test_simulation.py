"""A small run of the simulation (`make simulate` is the large one), and proof that it can fail.

Each mutation takes one rule out of the real code; the simulation must find that it is missing.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

import simulate
from modelfleet.rollouts import advance, judge, judging
from modelfleet.rollouts.step import Answer, Standing
from modelfleet.serving import routing

Patch = pytest.MonkeyPatch


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("simulation")
    simulate.template(made)
    return made


def run(home: Path, folder: Path, seed: int, *, faults: bool = True) -> simulate.World:
    folder.mkdir(exist_ok=True)
    shutil.copy(home / "fleet.db", folder / "fleet.db")
    return simulate.run(folder, seed, faults)


@pytest.mark.parametrize("seed", [101, 102, 103])
def test_histories_with_faults_keep_the_rules(home: Path, tmp_path: Path, seed: int) -> None:
    world = run(home, tmp_path / "w", seed)
    assert world.violations == []
    assert sum(world.deaths.values()) > 3


def test_histories_without_faults_keep_the_rules(home: Path, tmp_path: Path) -> None:
    world = run(home, tmp_path / "w", 101, faults=False)
    assert world.violations == []
    assert not world.deaths


def release_before_ready(patch: Patch) -> None:
    patch.setattr(routing, "held", lambda *_: frozenset())


def route_before_ready(patch: Patch) -> None:
    patch.setattr(routing, "_pool", lambda index, homes, *_: homes.get(index))


def skip_gates(patch: Patch) -> None:
    passed = Answer(Standing.PASSED)
    patch.setattr(advance.Advancer, "_admission", lambda *_: passed)


def count_twice(patch: Patch) -> None:
    real = judge.update

    def update(state: judge.JudgeState, *rest: object) -> judge.JudgeState:
        after = real(state, *rest)  # type: ignore[arg-type]
        return replace(real(replace(after, last_tick=-1), *rest))  # type: ignore[arg-type]

    patch.setattr(judging.judge, "update", update)


def forget_freezes(patch: Patch) -> None:
    patch.setattr(advance.Advancer, "_blocked", lambda *_: "")


def forget_the_group(patch: Patch) -> None:
    patch.setattr(advance.groups, "together", lambda _, moves, waits: (dict(moves), dict(waits)))


@pytest.mark.parametrize(
    ("mutate", "seeds", "found"),
    [
        (release_before_ready, (1,), "capacity"),
        (route_before_ready, (1,), "moved to"),
        (skip_gates, (1,), "did not pass its gates"),
        (count_twice, (1, 2), "differ"),
        (forget_freezes, (1, 2, 3, 4, 5, 6), "freeze window"),
        (forget_the_group, (1, 2, 3), "two ways"),
    ],
    ids=lambda one: getattr(one, "__name__", ""),
)
def test_the_simulation_finds_what_is_missing(
    home: Path,
    tmp_path: Path,
    monkeypatch: Patch,
    mutate: Callable[[Patch], None],
    seeds: tuple[int, ...],
    found: str,
) -> None:
    mutate(monkeypatch)
    for seed in seeds:
        world = run(home, tmp_path / str(seed), seed)
        if any(found in one for one in world.violations):
            return
    pytest.fail(f"{mutate.__name__} was not found in the seeds {seeds}")
