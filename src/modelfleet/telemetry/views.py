"""What readers of evidence get: frozen, counts as int64 arrays, times in microseconds.

Latency arrays follow `modelfleet.telemetry.latency.BOUNDS_US`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modelfleet.telemetry.states import Counts, State


@dataclass(frozen=True)
class Tick:
    """One judge tick of one version. Unit: requests (of a batch request, the first row)."""

    version_index: int
    number: int
    """Increases with closing; the same for all versions, so that arms are paired by it. Odd
    numbers hold what came too late for its own tick."""
    start_us: int
    requests: int
    errors: int
    codes: Mapping[int, int]
    latency: Counts
    """Answered requests (status 200) by latency."""
    score: Counts
    """First rows' scores in the bins of the reference that watch.json names; may be empty."""
    scored: int
    score_sum: float
    score_squares: float

    @property
    def is_late(self) -> bool:
        return self.number % 2 == 1


@dataclass(frozen=True)
class PairTick:
    """Shadow comparison in one tick: sums over pairs of answered requests."""

    stable: int
    shadow: int
    number: int
    pairs: int
    disagreements: int
    absolute: float
    """Sum of |shadow's score - stable's score|."""
    squared: float
    stable_latency_us: float
    shadow_latency_us: float
    scored: int = 0
    """Pairs in which both have a score."""


@dataclass(frozen=True)
class TickBatch:
    """One consistent reading for the judge: everything up to and including `closed`."""

    closed: int
    ticks: Mapping[int, Sequence[Tick]]
    pair_ticks: Mapping[tuple[int, int], Sequence[PairTick]]


@dataclass(frozen=True)
class WindowState:
    """One version in one window. Windows of equal layout can be merged: see `merge_windows`."""

    version_index: int
    start_us: int
    end_us: int
    layout: str
    """Digest of the reference whose bins were counted; empty without a reference."""
    requests: int
    rows: int
    errors: int
    codes: Mapping[int, int]
    latency: Counts
    features: tuple[Counts, ...]
    score: Counts
    scored: int
    score_sum: float
    score_squares: float


@dataclass(frozen=True)
class BinLayout:
    """Bins of one feature or of the score, and how the reference fills them.

    numeric: `edges` are inner edges; len(edges) + 1 bins, then null.
    levels: one bin per level, then unseen, then null.
    """

    name: str
    kind: str
    edges: tuple[float, ...]
    levels: tuple[str | int | float, ...]
    counts: Counts


@dataclass(frozen=True)
class ReferenceLayout:
    digest: str
    rows: int
    features: tuple[BinLayout, ...]
    score: BinLayout | None


@dataclass(frozen=True)
class History:
    """Series for charts, one entry per step that begins at `start_us`."""

    start_us: NDArray[np.int64]
    requests: Counts
    errors: Counts
    p50_us: NDArray[np.float64]
    p95_us: NDArray[np.float64]
    p99_us: NDArray[np.float64]
    score_mean: NDArray[np.float64]


@dataclass(frozen=True)
class Total:
    """Everything ever seen of a version."""

    version_index: int
    model: str
    version: str
    requests: int
    errors: int
    last_seen_us: int
    codes: Mapping[int, int]
    latency: Counts


@dataclass(frozen=True)
class OutcomeWindow:
    """Losses of the predictions of one window, as far as they are labelled."""

    version_index: int
    start_us: int
    predictions: int
    """Rows predicted in the window."""
    labelled: int
    wrong: int
    """For probabilities: rows on the wrong side of 0.5."""
    absolute: float
    squared: float
    """Sum of squared errors; for probabilities the Brier score's sum."""
    log_loss: float
    predicted_true: int = 0
    """For probabilities: rows that were said to be true."""
    true: int = 0
    hits: int = 0
    """Rows that were both."""
    classified: int = 0
    """Labelled rows that can be right or wrong: a probability, and a label of 0 or 1."""


@dataclass(frozen=True)
class PredictionView:
    """One request for people to look at. `inputs` and `outputs`: its first row, by name."""

    prediction_id: str
    time_us: int
    latency_us: float
    status: int
    attempt: int
    shadow: bool
    rows: int
    score: float
    inputs: Mapping[str, object]
    outputs: Mapping[str, object]
    caller: str
    request_id: str
    error: str


def tick_view(version_index: int, number: int, tick_us: float, state: State) -> Tick:
    return Tick(
        version_index,
        number,
        int(number // 2 * tick_us),
        state.requests,
        state.errors,
        state.codes,
        state.latency,
        state.score,
        state.scored,
        state.score_sum,
        state.score_squares,
    )


def window_view(
    version_index: int, start_us: int, end_us: int, layout: str, state: State
) -> WindowState:
    return WindowState(
        version_index,
        start_us,
        end_us,
        layout,
        state.requests,
        state.rows,
        state.errors,
        state.codes,
        state.latency,
        tuple(state.features),
        state.score,
        state.scored,
        state.score_sum,
        state.score_squares,
    )
