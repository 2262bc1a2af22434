"""How right a version was, by when it predicted. Young cohorts still wait for their labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from modelfleet.registry import Version
from modelfleet.telemetry.views import OutcomeWindow
from modelfleet.wiring import Fleet

COHORTS = 12
COMPLETE = 0.95
"""From this share of labels on, a cohort counts as complete."""


@dataclass(frozen=True)
class Cohort:
    start_us: int
    end_us: int
    predictions: int
    labelled: int
    accuracy: float | None
    """share of rows on the right side of 0.5; None for numbers"""
    absolute: float
    """mean absolute error; of probabilities the mean distance from the label"""
    squared: float
    """mean squared error; of probabilities the Brier score"""
    log_loss: float | None

    @property
    def preliminary(self) -> bool:
        return self.labelled < COMPLETE * self.predictions


@dataclass(frozen=True)
class OutcomesView:
    probabilities: bool
    """the score is a probability, else a number"""
    cohorts: tuple[Cohort, ...]
    """oldest first; those without a label are left out"""
    total: Cohort | None


def outcomes_view(fleet: Fleet, chosen: Version | None, start_us: int, end_us: int) -> OutcomesView:
    if chosen is None:
        return OutcomesView(False, (), None)
    found = fleet.evidence.outcomes(chosen.index, start_us, end_us)
    predicted: dict[int, int] = {}
    if found:
        for window in fleet.evidence.windows(chosen.index, found[0].start_us, end_us):
            predicted[window.start_us] = predicted.get(window.start_us, 0) + window.rows
    score = chosen.info.score
    probabilities = score is not None and score.output == "probability"
    length = max(fleet.evidence.window_us(), 1)
    return arrange(found, predicted, length, probabilities=probabilities)


def arrange(
    windows: Sequence[OutcomeWindow],
    predicted: Mapping[int, int],
    window_us: int,
    *,
    probabilities: bool,
) -> OutcomesView:
    """Join windows to at most COHORTS cohorts. predicted: rows by window start."""
    if not windows:
        return OutcomesView(probabilities, (), None)
    first, last = windows[0].start_us, windows[-1].start_us
    count = (last - first) // window_us + 1
    length = -(-count // COHORTS) * window_us
    groups: dict[int, list[OutcomeWindow]] = {}
    for window in windows:
        groups.setdefault((window.start_us - first) // length, []).append(window)
    cohorts = tuple(
        _cohort(group, predicted, first + k * length, first + (k + 1) * length, probabilities)
        for k, group in sorted(groups.items())
    )
    total = _cohort(windows, predicted, first, last + window_us, probabilities)
    return OutcomesView(probabilities, cohorts, total)


def _cohort(
    windows: Sequence[OutcomeWindow],
    predicted: Mapping[int, int],
    start: int,
    end: int,
    probabilities: bool,
) -> Cohort:
    labelled = sum(one.labelled for one in windows)
    divisor = max(labelled, 1)
    return Cohort(
        start_us=start,
        end_us=end,
        predictions=max(sum(n for at, n in predicted.items() if start <= at < end), labelled),
        labelled=labelled,
        accuracy=1 - sum(one.wrong for one in windows) / divisor if probabilities else None,
        absolute=sum(one.absolute for one in windows) / divisor,
        squared=sum(one.squared for one in windows) / divisor,
        log_loss=sum(one.log_loss for one in windows) / divisor if probabilities else None,
    )
