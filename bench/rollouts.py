"""What a look of the reconciler at many running rollouts costs, and how soon a rollback is there.

    python bench/rollouts.py [--rollouts 200] [--large 1000] [--seconds 20]

A real home, database, registry and reconciler; workers and gateway are played (they acknowledge at
once), and so are ticks: one for each rollout a second, as the collector makes them. Ends with one
line of JSON: share of a core that the reconciler takes at its usual interval with nothing to do
and with a tick a second, CPU seconds of one look at the large number, and milliseconds from a
verdict to the gateway's new routes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import simulate
from modelfleet.core.settings import ReconcileSettings
from modelfleet.rollouts.analysis import Analysis, Arm, Tick
from modelfleet.rollouts.plan import Spec
from modelfleet.telemetry.latency import BUCKETS

LATENCY = tuple(10 if 60 <= k < 80 else 0 for k in range(BUCKETS))
SCORES = (10,) * 20
GOOD = Arm(200, 0, LATENCY, SCORES)
BAD = Arm(200, 120, LATENCY, SCORES)


class Busy(simulate.World):
    """All endpoints are at a canary's step; every second there is a tick of each."""

    def __init__(self, folder: Path) -> None:
        self.bad: set[int] = set()
        self.started = time.time()
        super().__init__(folder, 1, faults=False)

    def _begin(self) -> list[simulate.History]:
        spec = Spec(weights=(5000,), step_seconds=1e6, analysis=Analysis())
        found = []
        for number in range(simulate.MODELS):
            history = simulate.History(f"m{number}", ("good",), spec, self.dice)
            self._start(history)
            found.append(history)
        return found

    def clock(self) -> None:
        self.now = time.time_ns() // 1000

    def closed_tick(self) -> int:
        return 2 * int(time.time()) - 2

    def ticks(self, stable: int, canary: int, after: int) -> Sequence[Tick]:
        first = max(after + 1, 2 * int(self.started))
        even = range(first + first % 2, self.closed_tick() + 1, 2)
        canary_arm = BAD if canary in self.bad else GOOD
        return [Tick(number, GOOD, canary_arm) for number in even]

    def look(self) -> None:  # type: ignore[override]
        self.clock()
        self.rounds += 1
        self.reconcile()
        self._work()
        self._serve()


def share(world: Busy, seconds: float, interval: float, *, ticking: bool) -> float:
    """CPU of the looks, as a share of one core."""
    spent, began, looks = 0.0, time.monotonic(), 0
    closed = world.closed_tick()
    if not ticking:
        world.closed_tick = lambda: closed  # type: ignore[method-assign]
    while time.monotonic() - began < seconds:
        first = time.thread_time()
        world.clock()
        world.rollouts.advance(world.load_errors)
        world.rollouts.active()
        spent += time.thread_time() - first
        looks += 1
        time.sleep(max(began + looks * interval - time.monotonic(), 0))
    if not ticking:
        del world.closed_tick
    return spent / (time.monotonic() - began)


def steady(folder: Path, count: int) -> Busy:
    simulate.MODELS = simulate.BATCH = count
    simulate.template(folder)
    world = Busy(folder)
    with simulate.clocked(world):
        for _ in range(6):
            world.look()
        states = {row.state.value for row in world.rollouts.active()}
    assert states == {"stepping"}, states
    return world


def rollback(world: Busy) -> float:
    """Seconds from the look that reads the harm to all traffic being back."""
    index = world.versions[("m0", "1.1.0")]
    world.bad.add(index)
    end = time.monotonic() + 20
    decided = 0.0
    while time.monotonic() < end:
        first = time.monotonic()
        world.look()
        state = next((r.state.value for r in world.rollouts.active() if r.endpoint == "m0"), "")
        if state == "rolling_back" and not decided:
            decided = first
        if state == "":
            return time.monotonic() - decided
        time.sleep(max(first + 0.25 - time.monotonic(), 0))
    raise SystemExit("it never went back")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rollouts", type=int, default=200)
    parser.add_argument("--large", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=20.0)
    arguments = parser.parse_args()
    interval = ReconcileSettings().interval_seconds
    with tempfile.TemporaryDirectory(prefix="rollouts-") as folder:
        world = steady(Path(folder) / "a", arguments.rollouts)
        with simulate.clocked(world):
            idle = share(world, arguments.seconds / 2, interval, ticking=False)
            ticking = share(world, arguments.seconds, interval, ticking=True)
            back = rollback(world)
        world.database.close()
        large = steady(Path(folder) / "b", arguments.large)
        with simulate.clocked(large):
            time.sleep(2.5)
            large.clock()
            first = time.thread_time()
            large.rollouts.advance({})
            one_tick = time.thread_time() - first
            first = time.thread_time()
            large.rollouts.advance({})
            nothing = time.thread_time() - first
        large.database.close()
    found = {
        "rollouts": arguments.rollouts,
        "interval_seconds": interval,
        "idle_share_of_core": round(idle, 4),
        "ticking_share_of_core": round(ticking, 4),
        "rollback_seconds": round(back, 3),
        "large": arguments.large,
        "large_tick_cpu_seconds": round(one_tick, 3),
        "large_idle_cpu_seconds": round(nothing, 4),
        "cores": os.cpu_count(),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
