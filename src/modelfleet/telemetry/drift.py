"""Has a distribution moved further than we tolerate? (the tolerance test)

The usual question "are these two samples from one distribution?" is answered with no as soon as
there is enough traffic. We ask whether the chi-square distance (about the PSI for small shifts)
exceeds `psi0`. With counts c (window, sum n) and r (reference, sum M) over B bins and t = c + r::

    S     = sum (c - t*n/(n+M))^2 / (t*n/(n+M)) + sum (r - t*M/(n+M))^2 / (t*M/(n+M))
    n_eff = n*M / (n+M)
    p     = ncx2.sf(S, df=B-1, nc=n_eff*psi0)          # H0: distance <= psi0

All streams of a window (models x features) are one matrix; shapes below: [streams, bins].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]

MINIMUM_EXPECTED = 5.0
"""Below this many expected rows in a bin the chi-square approximation fails."""


@dataclass(frozen=True)
class Stream:
    """One thing to test: the bins of a feature (or the score) in a window and in its reference."""

    window: Counts
    reference: Counts
    ordered: bool = True
    """Neighbouring bins may be folded together (numbers). Levels are folded rarest first."""


@dataclass(frozen=True)
class DriftTests:
    """Results of all streams, in their order. `p` is NaN where the test is inconclusive."""

    p: Floats
    statistic: Floats
    distance: Floats
    """Estimated chi-square distance, its noise taken off: max(0, (S - df) / n_eff)."""
    bins: Counts
    """Bins left after folding."""
    rows: Counts
    reference_rows: Counts

    @property
    def conclusive(self) -> NDArray[np.bool_]:
        return ~np.isnan(self.p)


def tolerance_tests(streams: Sequence[Stream], psi0: float | Floats) -> DriftTests:
    """Test every stream against its tolerance `psi0` (one for all, or one each)."""
    window, reference = _matrices(streams)
    n, m = window.sum(axis=1), reference.sum(axis=1)
    window, reference, bins = fold_sparse(window, reference)
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = two_sample_statistic(window, reference)
        effective = n * m / (n + m)
        degrees = bins - 1.0
        distance = np.maximum(0.0, (statistic - degrees) / effective)
    testable = bins >= 2
    p = np.full(len(streams), np.nan)
    if testable.any():
        tolerated = np.broadcast_to(np.asarray(psi0, dtype=np.float64), p.shape)
        noncentrality = (effective * tolerated).astype(np.float64)
        p[testable] = upper_tail(
            statistic[testable],
            degrees[testable].astype(np.float64),
            noncentrality[testable],
        )
    distance[~testable] = np.nan
    statistic[~testable] = np.nan
    return DriftTests(p, statistic, distance, bins, n, m)


def upper_tail(statistic: Floats, degrees: Floats, noncentrality: Floats) -> Floats:
    """P(X >= statistic) for noncentral chi-square X; the central one where nothing is tolerated."""
    from scipy.stats import chi2, ncx2  # 0.5 s to import, needed by monitors only

    central = noncentrality <= 0
    tail = np.empty_like(statistic)
    tail[central] = chi2.sf(statistic[central], degrees[central])
    tail[~central] = ncx2.sf(statistic[~central], degrees[~central], noncentrality[~central])
    return np.clip(tail, 0.0, 1.0)


def two_sample_statistic(window: Floats, reference: Floats) -> Floats:
    """S of the module's docstring. Bins that are empty in both samples add nothing."""
    n = window.sum(axis=1, keepdims=True)
    m = reference.sum(axis=1, keepdims=True)
    both = window + reference
    expected_window = both * n / (n + m)
    expected_reference = both * m / (n + m)
    parts = np.where(
        both > 0,
        (window - expected_window) ** 2 / expected_window
        + (reference - expected_reference) ** 2 / expected_reference,
        0.0,
    )
    total: Floats = parts.sum(axis=1)
    return total


def fold_sparse(
    window: Floats, reference: Floats, minimum: float = MINIMUM_EXPECTED
) -> tuple[Floats, Floats, Counts]:
    """Join neighbouring bins until each is expected to hold `minimum` rows in both samples.

    Returns the folded counts, left-aligned, and how many bins each stream kept. What is left over
    at the right end joins the last bin. A stream that can't fill one bin keeps none.
    """
    streams, width = window.shape
    n, m = window.sum(axis=1), reference.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        needed = minimum * (n + m) / np.minimum(n, m)  # of window + reference, in each bin
    folded_window, folded_reference = np.zeros_like(window), np.zeros_like(reference)
    kept = np.zeros(streams, dtype=np.int64)
    open_window, open_reference = np.zeros(streams), np.zeros(streams)
    everyone = np.arange(streams)
    for column in range(width):
        open_window += window[:, column]
        open_reference += reference[:, column]
        full = everyone[open_window + open_reference >= needed]
        folded_window[full, kept[full]] = open_window[full]
        folded_reference[full, kept[full]] = open_reference[full]
        kept[full] += 1
        open_window[full] = 0.0
        open_reference[full] = 0.0
    some = everyone[kept > 0]
    folded_window[some, kept[some] - 1] += open_window[some]
    folded_reference[some, kept[some] - 1] += open_reference[some]
    return folded_window, folded_reference, kept


def _matrices(streams: Sequence[Stream]) -> tuple[Floats, Floats]:
    """Counts of all streams, padded with empty bins; levels sorted by how common they are."""
    width = max((len(stream.window) for stream in streams), default=0)
    window = np.zeros((len(streams), width))
    reference = np.zeros((len(streams), width))
    for row, stream in enumerate(streams):
        if stream.window.shape != stream.reference.shape:
            raise ValueError(
                f"{len(stream.window)} bins in the window, {len(stream.reference)} in the reference"
            )
        order: slice | NDArray[np.intp] = slice(None)
        if not stream.ordered:
            order = np.argsort(-(stream.window + stream.reference), kind="stable")
        size = len(stream.window)
        window[row, :size] = stream.window[order]
        reference[row, :size] = stream.reference[order]
    return window, reference
