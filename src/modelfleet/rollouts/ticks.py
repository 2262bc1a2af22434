"""The collector's judge ticks, as the judge wants them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from modelfleet.rollouts.analysis import Arm, Tick
from modelfleet.rollouts.sequential import Sums
from modelfleet.telemetry import views
from modelfleet.telemetry.evidence import EvidenceReader

_HISTORY_US = 600_000_000


class EvidenceTicks:
    """`TickSource` over evidence.db."""

    def __init__(self, evidence: EvidenceReader, tick_seconds: float) -> None:
        self._evidence = evidence
        self._tick_us = tick_seconds * 1e6

    def tick_at(self, moment_us: int) -> int:
        """Even numbers count ticks since 1970; the odd one after each takes its late records."""
        return 2 * int(moment_us / self._tick_us) + 1

    def latency(self, version: int, before_us: int) -> tuple[int, ...]:
        windows = self._evidence.windows(version, before_us - _HISTORY_US, before_us)
        return tuple(np.sum([one.latency for one in windows], axis=0).tolist()) if windows else ()

    def closed_tick(self) -> int:
        return self._evidence.tick_batch([]).closed

    def ticks(
        self,
        stable: int,
        canary: int,
        after: int,
        *,
        loss: str | None = None,
        delay_seconds: float = 0.0,
        since_us: int = 0,
    ) -> Sequence[Tick]:
        """loss, delay_seconds: labels of predictions made since then, which come into the tick in
        which the window of the prediction is `delay_seconds` old."""
        batch = self._evidence.tick_batch([stable, canary], [(stable, canary)], after)
        arms = {
            version: {one.number: _arm(one) for one in batch.ticks[version]}
            for version in (stable, canary)
        }
        if loss is not None:
            delay_us = int(delay_seconds * 1e6)
            for version, counted in arms.items():
                late = self._cohorts(version, loss, delay_us, (after, batch.closed), since_us)
                _join(counted, late)
        pairs = {one.number: one for one in batch.pair_ticks.get((stable, canary), ())}
        numbers = sorted({*arms[stable], *arms[canary], *pairs})
        return [
            _tick(number, arms[stable].get(number), arms[canary].get(number), pairs.get(number))
            for number in numbers
        ]

    def _cohorts(
        self, version: int, loss: str, delay_us: int, between: tuple[int, int], since_us: int
    ) -> Mapping[int, Arm]:
        """Labels by the number of the tick in which their predictions are old enough."""
        length = self._evidence.window_us()
        first = max(0, int(between[0] // 2 * self._tick_us) - delay_us - 2 * length)
        end = int((between[1] // 2 + 1) * self._tick_us) - delay_us
        found: dict[int, Arm] = {}
        for window in self._evidence.outcomes(version, max(first, since_us), end):
            number = self.tick_at(window.start_us + length + delay_us) - 1
            if between[0] < number <= between[1]:
                found[number] = _sum(found.get(number, Arm()), _labels(window, loss))
        return found


def _join(arms: dict[int, Arm], late: Mapping[int, Arm]) -> None:
    for number, labels in late.items():
        arms[number] = replace(
            arms.get(number, Arm()),
            outcomes=labels.outcomes,
            outcome_sum=labels.outcome_sum,
            outcome_squares=labels.outcome_squares,
        )


def _sum(one: Arm, other: Arm) -> Arm:
    return Arm(
        outcomes=one.outcomes + other.outcomes,
        outcome_sum=one.outcome_sum + other.outcome_sum,
        outcome_squares=one.outcome_squares + other.outcome_squares,
    )


def _labels(window: views.OutcomeWindow, loss: str) -> Arm:
    """Of these rows, how many were right (or minus the sum of their absolute errors)."""
    if loss == "absolute_error":
        return Arm(
            outcomes=window.labelled, outcome_sum=-window.absolute, outcome_squares=window.squared
        )
    rows, right = {
        "error_rate": (window.classified, window.classified - window.wrong),
        "precision": (window.predicted_true, window.hits),
        "recall": (window.true, window.hits),
    }[loss]
    return Arm(outcomes=rows, outcome_sum=right, outcome_squares=right)


def _tick(number: int, stable: Arm | None, canary: Arm | None, pair: views.PairTick | None) -> Tick:
    tick = Tick(number, stable or Arm(), canary or Arm())
    if pair is None:
        return tick
    return replace(
        tick,
        pairs=pair.pairs,
        disagreements=pair.disagreements,
        differences=Sums(pair.scored, pair.absolute, pair.squared),
        stable_us=pair.stable_latency_us,
        shadow_us=pair.shadow_latency_us,
    )


def _arm(tick: views.Tick) -> Arm:
    return Arm(
        tick.requests,
        tick.errors,
        tuple(tick.latency.tolist()),
        tuple(tick.score.tolist()),
        Sums(tick.scored, tick.score_sum, tick.score_squares),
    )
