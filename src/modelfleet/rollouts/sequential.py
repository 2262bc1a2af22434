"""Anytime-valid tests on counts: they may be read at every tick without inflating errors.

* `TwoArm`: safe test of two proportions with a margin (Turner, Ly & Grünwald, 2024,
  "Generic E-variables for exact sequential k-sample tests that allow for optional stopping").
* `OneArm`: the same against a fixed limit.
* `kolmogorov_band`: time-uniform band of an empirical distribution function (Howard & Ramdas,
  2022, "Sequential estimation of quantiles with applications to A/B testing").
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
