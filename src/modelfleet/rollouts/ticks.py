"""The collector's judge ticks, as the judge wants them."""

from __future__ import annotations

from collections.abc import Sequence

from modelfleet.rollouts.analysis import Arm, Tick
from modelfleet.telemetry import views
from modelfleet.telemetry.evidence import EvidenceReader


class EvidenceTicks:
    """`TickSource` over evidence.db."""

    def __init__(self, evidence: EvidenceReader, tick_seconds: float) -> None:
        self._evidence = evidence
        self._tick_us = tick_seconds * 1e6

    def tick_at(self, moment_us: int) -> int:
        """Even numbers count ticks since 1970; the odd one after each takes its late records."""
        return 2 * int(moment_us / self._tick_us) + 1

    def closed_tick(self) -> int:
        return self._evidence.tick_batch([]).closed

    def ticks(self, stable: int, canary: int, after: int) -> Sequence[Tick]:
        batch = self._evidence.tick_batch([stable, canary], [(stable, canary)], after)
        arms = {
            version: {one.number: one for one in batch.ticks[version]}
            for version in (stable, canary)
        }
        pairs = {one.number: one for one in batch.pair_ticks.get((stable, canary), ())}
        numbers = sorted({*arms[stable], *arms[canary], *pairs})
        found = []
        for number in numbers:
            pair = pairs.get(number)
            found.append(
                Tick(
                    number,
                    _arm(arms[stable].get(number)),
                    _arm(arms[canary].get(number)),
                    pairs=pair.pairs if pair else 0,
                    disagreements=pair.disagreements if pair else 0,
                )
            )
        return found


def _arm(tick: views.Tick | None) -> Arm:
    if tick is None:
        return Arm()
    return Arm(tick.requests, tick.errors, tuple(tick.latency.tolist()), tuple(tick.score.tolist()))
