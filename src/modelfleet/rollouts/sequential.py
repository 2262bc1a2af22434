"""Anytime-valid tests on counts: they may be read at every tick without inflating errors.

* `TwoArm`: safe test of two proportions with a margin (Turner, Ly & Grünwald, 2024,
  "Generic E-variables for exact sequential k-sample tests that allow for optional stopping").
* `OneArm`: the same against a fixed limit.
* `kolmogorov_band`: time-uniform band of an empirical distribution function (Howard & Ramdas,
  2022, "Sequential estimation of quantiles with applications to A/B testing").
* `Mean`: asymptotic confidence sequence of a mean (Waudby-Smith, Arbour,
  Sinha, Kennedy & Ramdas, 2024, "Time-uniform central limit theory and asymptotic confidence
  sequences"), the difference of two stratified by tick, so that a drifting input fools nobody.
* `split_log_e`: Bayes factor of the observed split against the intended weight.

An e-process L (as a logarithm) rejects its null hypothesis at level alpha when it has ever reached
ln(1/alpha).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

_TINY = 1e-9


def _clip(probability: float) -> float:
    return min(max(probability, _TINY), 1 - _TINY)


@dataclass(frozen=True)
class TwoArm:
    """E-process on error counts of stable (a) and canary (b).

    `side` +1 gathers harm, against H0: rate_b - rate_a <= margin; -1 gathers proof, against
    H0: rate_b - rate_a >= margin. Bets use earlier ticks only.
    """

    side: int
    margin: float
    errors_a: float = 0.01
    errors_b: float = 0.01
    total_a: float = 0.5
    total_b: float = 0.5
    log_e: float = 0.0
    highest: float = 0.0

    def update(self, n_a: int, y_a: int, n_b: int, y_b: int) -> TwoArm:
        """One tick: requests and errors of both arms."""
        if n_a + n_b == 0:
            return self
        log_e = self.log_e + self._gain(n_a, y_a, n_b, y_b)
        return replace(
            self,
            errors_a=self.errors_a + y_a,
            errors_b=self.errors_b + y_b,
            total_a=self.total_a + n_a,
            total_b=self.total_b + n_b,
            log_e=log_e,
            highest=max(self.highest, log_e),
        )

    def _gain(self, n_a: int, y_a: int, n_b: int, y_b: int) -> float:
        if n_a == 0 or n_b == 0:
            return 0.0
        guess_a = _clip(self.errors_a / self.total_a)
        guess_b = self.errors_b / self.total_b
        border = guess_a + self.margin
        guess_b = _clip(max(guess_b, border) if self.side > 0 else min(guess_b, border))
        if self.side * (guess_b - guess_a - self.margin) <= 0:
            return 0.0
        null_a = self._null(n_a, guess_a, n_b, guess_b)
        null_b = _clip(null_a + self.margin)
        null_a = _clip(null_a)
        return (
            y_a * math.log(guess_a / null_a)
            + (n_a - y_a) * math.log((1 - guess_a) / (1 - null_a))
            + y_b * math.log(guess_b / null_b)
            + (n_b - y_b) * math.log((1 - guess_b) / (1 - null_b))
        )

    def _null(self, n_a: int, guess_a: float, n_b: int, guess_b: float) -> float:
        """Rate of a on the border of H0 that lies nearest to the guesses (in relative entropy)."""
        margin = self.margin
        if margin == 0:
            return (n_a * guess_a + n_b * guess_b) / (n_a + n_b)
        low, high = sorted((guess_a, guess_b - margin))
        low, high = max(low, _TINY, _TINY - margin), min(high, 1 - _TINY, 1 - _TINY - margin)
        for _ in range(50):
            middle = (low + high) / 2
            shifted = middle + margin
            slope = n_a * (middle - guess_a) / (middle * (1 - middle)) + n_b * (
                shifted - guess_b
            ) / (shifted * (1 - shifted))
            low, high = (low, middle) if slope > 0 else (middle, high)
        return (low + high) / 2


@dataclass(frozen=True)
class OneArm:
    """E-process on error counts against a fixed limit; `side` as in `TwoArm`."""

    side: int
    limit: float
    errors: float = 0.01
    total: float = 0.5
    log_e: float = 0.0
    highest: float = 0.0

    def update(self, n: int, y: int) -> OneArm:
        if n == 0:
            return self
        guess, limit = _clip(self.errors / self.total), _clip(self.limit)
        log_e = self.log_e
        if self.side * (guess - limit) > 0:
            log_e += y * math.log(guess / limit) + (n - y) * math.log((1 - guess) / (1 - limit))
        return replace(
            self,
            errors=self.errors + y,
            total=self.total + n,
            log_e=log_e,
            highest=max(self.highest, log_e),
        )


BURN_IN = 50
"""rows of each arm before a mean is bounded"""
_BEST_AT = 2000.0
"""rows at which a bound of a mean is made to be tightest"""


@dataclass(frozen=True)
class Sums:
    """Rows, their sum, and the sum of their squares."""

    rows: int = 0
    total: float = 0.0
    squares: float = 0.0

    @property
    def mean(self) -> float:
        return self.total / self.rows

    @property
    def variance(self) -> float:
        """Unbiased; of two rows or more."""
        return max(self.squares - self.total**2 / self.rows, 0.0) / (self.rows - 1)


@dataclass(frozen=True)
class Mean:
    """What is known of one mean, or of the difference of two (canary - stable).

    weight, total, variance: H, S and V of the sequence. `scale` is V/H at the end of the burn-in.
    """

    weight: float = 0.0
    total: float = 0.0
    variance: float = 0.0
    rows_a: int = 0
    rows_b: int = 0
    scale: float = 0.0

    def difference(self, a: Sums, b: Sums) -> Mean:
        """One tick of two arms. A tick with fewer than two rows in an arm says nothing."""
        if a.rows < 2 or b.rows < 2:
            return self
        h = a.rows * b.rows / (a.rows + b.rows)
        spread = a.variance / a.rows + b.variance / b.rows
        return self._add(h, b.mean - a.mean, spread, a.rows, b.rows)

    def single(self, b: Sums) -> Mean:
        """One tick of one arm."""
        if b.rows < 2:
            return self
        return self._add(b.rows, b.mean, b.variance / b.rows, b.rows, b.rows)

    def _add(self, h: float, mean: float, spread: float, rows_a: int, rows_b: int) -> Mean:
        after = replace(
            self,
            weight=self.weight + h,
            total=self.total + h * mean,
            variance=self.variance + h * h * spread,
            rows_a=self.rows_a + rows_a,
            rows_b=self.rows_b + rows_b,
        )
        if self.scale == 0 and min(after.rows_a, after.rows_b) >= BURN_IN:
            return replace(after, scale=after.variance / after.weight)
        return after

    @property
    def estimate(self) -> float:
        return self.total / self.weight if self.weight else 0.0

    def half(self, alpha: float, *, two_sided: bool = False, least: float = 0.0) -> float:
        """Half width of the sequence now; infinite during the burn-in.

        least: standard deviation to assume when rows differ by less, as all-equal ones do.
        """
        if min(self.rows_a, self.rows_b) < BURN_IN:
            return math.inf
        scale = self.scale or least**2
        if scale == 0:
            return math.inf
        level = alpha if two_sided else 2 * alpha
        best = -2 * math.log(level) + math.log(1 - 2 * math.log(level))
        rho2 = best / (_BEST_AT * scale)
        v = max(self.variance, least**2 * self.weight) * rho2 + 1
        if two_sided:
            return math.sqrt(v / rho2 * math.log(v / alpha**2)) / self.weight
        inside = math.log(1 + math.sqrt(v) / (2 * alpha))
        return math.sqrt(2 * v / rho2 * inside) / self.weight


def kolmogorov_band(n: int, alpha: float) -> float:
    """Half width, at every n at once, of the band around an empirical distribution function."""
    if n < 1:
        return math.inf
    return 0.85 * math.sqrt((math.log(math.log(math.e * n)) + 0.8 * math.log(1612 / alpha)) / n)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def split_log_e(canary: int, total: int, weight: float) -> float:
    """ln E against "each request goes to the canary with probability `weight`"."""
    if total == 0 or not 0 < weight < 1:
        return 0.0
    rest = total - canary
    return (
        _log_beta(100 * weight + canary, 100 * (1 - weight) + rest)
        - _log_beta(100 * weight, 100 * (1 - weight))
        - canary * math.log(weight)
        - rest * math.log(1 - weight)
    )
