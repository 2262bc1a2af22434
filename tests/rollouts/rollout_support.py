"""Ticks from given truths, and how long the judge takes with them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modelfleet.rollouts.analysis import Analysis, Arm, Tick
from modelfleet.rollouts.judge import JudgeState, Verdict, begin, update, verdict
from modelfleet.telemetry.latency import BOUNDS_US, BUCKETS

FULL_BINS = 50


@dataclass(frozen=True)
class Truth:
    """What one arm is like. Latency is log-normal, scores are counted in equal bins."""

    requests: float
    error_rate: float = 0.0
    latency_us: float = 10_000.0
    sigma: float = 0.5
    shift: float = 0.0
    """share of the scores of the lower half that moves to the top: the true distance"""
    poisson: bool = False


def arm(rng: np.random.Generator, truth: Truth, latency: bool, scores: bool) -> Arm:
    n = int(rng.poisson(truth.requests)) if truth.poisson else int(truth.requests)
    errors = int(rng.binomial(n, truth.error_rate))
    taken: tuple[int, ...] = ()
    if latency:
        taken = tuple(rng.multinomial(n - errors, _buckets(truth.latency_us, truth.sigma)).tolist())
    found: tuple[int, ...] = ()
    if scores:
        chances = np.full(FULL_BINS, 1 / FULL_BINS)
        chances[: FULL_BINS // 2] *= 1 - 2 * truth.shift
        chances[-1] += truth.shift
        found = tuple(rng.multinomial(n - errors, chances).tolist())
    return Arm(n, errors, taken, found)


_KNOWN: dict[tuple[float, float], NDArray[np.float64]] = {}


def _buckets(median: float, sigma: float) -> NDArray[np.float64]:
    """Chance of each latency bucket."""
    if (median, sigma) not in _KNOWN:
        z = (np.log(BOUNDS_US) - math.log(median)) / (sigma * math.sqrt(2))
        below = np.array([0.5 * (1 + math.erf(one)) for one in z])
        chances = np.diff(np.concatenate([[0.0], below, [1.0]]))
        assert len(chances) == BUCKETS
        _KNOWN[(median, sigma)] = chances / chances.sum()
    return _KNOWN[(median, sigma)]


def ticks(seed: int, stable: Truth, canary: Truth, analysis: Analysis) -> Iterator[Tick]:
    """Endless."""
    rng = np.random.default_rng(seed)
    latency = analysis.latency_max_ratio is not None
    scores = analysis.predictions_max_distance is not None
    number = 0
    while True:
        number += 2
        yield Tick(number, arm(rng, stable, latency, scores), arm(rng, canary, latency, scores))


def first_tick(
    seed: int,
    stable: Truth,
    canary: Truth,
    analysis: Analysis,
    horizon: int,
    stop: Callable[[JudgeState, Verdict], bool],
    weight: float = 0.0,
) -> float:
    """Ticks until `stop`, at most `horizon`; infinity if it never did. Read at every tick."""
    state = begin(analysis)
    for count, tick in enumerate(ticks(seed, stable, canary, analysis), 1):
        if count > horizon:
            return math.inf
        state = update(state, analysis, tick)
        if stop(state, verdict(state, analysis, steps=1, weight=weight, mirrored=False)):
            return count
    raise AssertionError("ticks are endless")
