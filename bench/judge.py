"""How often the judge is wrong, how long it takes, and the usual tests beside it.

Every history is read at every tick by the judge itself (`judge.update`, `judge.verdict`), one
metric at a time without a margin, so that the null hypothesis is as tight as it gets; the usual
tests read the same requests. Last a JSON line.

    python bench/judge.py [--histories 2000] [--seed 1]

`false_rollback`: share of histories in which a version that is the same was found worse. `power`:
share in which one that is worse was found so, `median_ticks` the median of when.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from modelfleet.rollouts import judge
from modelfleet.rollouts.analysis import Analysis, Arm, Tick
from modelfleet.rollouts.sequential import Sums, TwoArm
from modelfleet.telemetry.latency import BOUNDS_US, BUCKETS

ERRORS = Analysis(errors_max_increase=0.0, latency_max_ratio=None, predictions_max_distance=None)
LATENCY = Analysis(
    errors_max_increase=None,
    latency_max_ratio=1.0,
    latency_floor_ms=0.0,
    predictions_max_distance=None,
)
SCORES = Analysis(
    errors_max_increase=None,
    latency_max_ratio=None,
    predictions_max_distance=None,
    scores_max_change=0.0,
)


@dataclass(frozen=True)
class Case:
    """One kind of history. worse: rate, factor or shift of the canary."""

    kind: str
    analysis: Analysis
    ticks: int
    sizes: tuple[int, int]
    base: float
    worse: float


NULLS = {
    "errors_0.1": Case("errors", ERRORS, 200, (900, 100), 0.001, 0.001),
    "errors_1": Case("errors", ERRORS, 200, (900, 100), 0.01, 0.01),
    "latency": Case("latency", LATENCY, 120, (180, 20), 0.5, 1.0),
    "prediction_mean": Case("scores", SCORES, 200, (90, 10), 0.0, 0.0),
    "prediction_mean_drifting": Case("drifting", SCORES, 200, (90, 10), 0.0, 0.0),
    "errors_of_sticky_clients": Case("sticky", ERRORS, 200, (900, 100), 0.01, 0.01),
}
WORSE = {
    "errors_1_to_2": Case("errors", ERRORS, 200, (900, 100), 0.01, 0.02),
    "errors_1_to_5": Case("errors", ERRORS, 200, (900, 100), 0.01, 0.05),
    "errors_0.1_to_1": Case("errors", ERRORS, 200, (900, 100), 0.001, 0.01),
    "latency_x1.3": Case("latency", LATENCY, 120, (180, 20), 0.5, 1.3),
    "latency_x2": Case("latency", LATENCY, 120, (180, 20), 0.5, 2.0),
    "prediction_mean_0.03": Case("scores", SCORES, 200, (90, 10), 0.0, 0.03),
    "prediction_mean_0.1": Case("scores", SCORES, 200, (90, 10), 0.0, 0.1),
}
Naive = Callable[[], bool]


def errors(case: Case, rng: np.random.Generator) -> Iterator[tuple[Tick, Naive]]:
    """Counts of failed requests; beside it the z-test of two proportions."""
    n_a, n_b = case.sizes
    seen = np.zeros(4)
    for number in range(1, case.ticks + 1):
        y_a, y_b = int(rng.binomial(n_a, case.base)), int(rng.binomial(n_b, case.worse))
        seen += (n_a, y_a, n_b, y_b)
        yield Tick(2 * number, Arm(n_a, y_a), Arm(n_b, y_b)), partial(z_test, *seen)


def z_test(n_a: float, y_a: float, n_b: float, y_b: float) -> bool:
    pooled = (y_a + y_b) / (n_a + n_b)
    spread = math.sqrt(pooled * (1 - pooled) * (1 / n_a + 1 / n_b))
    return spread > 0 and (y_b / n_b - y_a / n_a) / spread > 1.6449


def latency(case: Case, rng: np.random.Generator) -> Iterator[tuple[Tick, Naive]]:
    """Log-normal latencies in the collector's buckets; beside it Mann-Whitney's test of the exact
    ones, looked at every fifth tick."""
    parts: tuple[list[NDArray[np.float64]], list[NDArray[np.float64]]] = ([], [])
    for number in range(1, case.ticks + 1):
        a = rng.lognormal(math.log(10_000), case.base, case.sizes[0])
        b = rng.lognormal(math.log(10_000 * case.worse), case.base, case.sizes[1])
        parts[0].append(a)
        parts[1].append(b)
        due = number % 5 == 0
        yield (
            Tick(2 * number, bucketed(a), bucketed(b)),
            partial(mann_whitney, parts, due),
        )


def bucketed(taken: NDArray[np.float64]) -> Arm:
    counts = np.bincount(np.searchsorted(BOUNDS_US, taken, side="left"), minlength=BUCKETS)
    return Arm(len(taken), 0, tuple(counts.tolist()))


def mann_whitney(
    parts: tuple[list[NDArray[np.float64]], list[NDArray[np.float64]]], due: bool
) -> bool:
    if not due:
        return False
    a, b = np.concatenate(parts[0]), np.concatenate(parts[1])
    return bool(stats.mannwhitneyu(b, a, alternative="greater").pvalue < 0.05)


def scores(case: Case, rng: np.random.Generator) -> Iterator[tuple[Tick, Naive]]:
    """Scores of Beta(2, 5), shifted; beside it the two-sided z-test of two means."""
    seen = np.zeros((2, 3))
    for number in range(1, case.ticks + 1):
        arms = []
        for k, shift in enumerate((0.0, case.worse)):
            drawn = rng.beta(2, 5, case.sizes[k]) + shift
            sums = len(drawn), float(drawn.sum()), float(drawn @ drawn)
            seen[k] += sums
            arms.append(Arm(len(drawn), score_sums=Sums(*sums)))
        yield Tick(2 * number, *arms), partial(z_of_means, seen.copy())


def z_of_means(seen: NDArray[np.float64]) -> bool:
    (n_a, s_a, q_a), (n_b, s_b, q_b) = seen
    spread = (q_a / n_a - (s_a / n_a) ** 2) / n_a + (q_b / n_b - (s_b / n_b) ** 2) / n_b
    return spread > 0 and abs(s_b / n_b - s_a / n_a) / math.sqrt(spread) > 1.96


def sticky(case: Case, rng: np.random.Generator) -> Iterator[tuple[Tick, Naive]]:
    """500 clients, some of whom ask often and some of whom fail often, each bound to a version.
    The judge gets each once, as the collector counts them; the e-process beside it all requests."""
    often = rng.pareto(1.0, 500) + 0.1
    fails = rng.beta(0.1, 0.1 / case.base - 0.1, 500)
    canary = rng.random(500) < case.sizes[1] / sum(case.sizes)
    seen = np.zeros(500, dtype=bool)
    test = TwoArm(1, 0.0)
    for number in range(1, case.ticks + 1):
        asked = rng.multinomial(sum(case.sizes), often / often.sum())
        failed = rng.binomial(asked, fails)
        new = (asked > 0) & ~seen
        seen |= new
        arms = [
            Arm(int((new & arm).sum()), int((new & arm & (failed > 0)).sum()))
            for arm in (~canary, canary)
        ]
        sums = [int(part[arm].sum()) for arm in (~canary, canary) for part in (asked, failed)]
        test = test.update(*sums)
        yield Tick(2 * number, *arms), partial(float.__ge__, test.highest, math.log(20))


def drifting(case: Case, rng: np.random.Generator) -> Iterator[tuple[Tick, Naive]]:
    """Scores whose mean drifts while the canary's share grows; beside it the pooled means."""
    seen = np.zeros((2, 3))
    for number in range(1, case.ticks + 1):
        share = (0.05, 0.25, 0.5, 0.75)[min(4 * number // case.ticks, 3)]
        arms = []
        for k, part in enumerate((1 - share, share)):
            drawn = rng.beta(2, 5, int(sum(case.sizes) * part)) + 0.3 * number / case.ticks
            sums = len(drawn), float(drawn.sum()), float(drawn @ drawn)
            seen[k] += sums
            arms.append(Arm(len(drawn), score_sums=Sums(*sums)))
        yield Tick(2 * number, *arms), partial(z_of_means, seen.copy())


KINDS = {
    "errors": errors,
    "latency": latency,
    "scores": scores,
    "sticky": sticky,
    "drifting": drifting,
}


def history(case: Case, seed: tuple[int, ...]) -> tuple[float, float]:
    """The tick at which the judge, and the usual test, found harm; infinity if they did not."""
    state = judge.begin(case.analysis)
    ours = naive = math.inf
    made = KINDS[case.kind](case, np.random.default_rng(seed))
    for number, (tick, test) in enumerate(made, 1):
        if ours == math.inf:
            state = judge.update(state, case.analysis, tick)
            found = judge.verdict(state, case.analysis, steps=1, weight=0.0, mirrored=False)
            if found.finding is judge.Finding.HARM:
                ours = number
        if naive == math.inf and test():
            naive = number
        if ours < math.inf and naive < math.inf:
            break
    return ours, naive


def histories(case: Case, seeds: list[tuple[int, ...]]) -> list[tuple[float, float]]:
    return [history(case, seed) for seed in seeds]


def run(case: Case, count: int, seed: int, pool: ProcessPoolExecutor) -> NDArray[np.float64]:
    """(ours, naive) of each history."""
    seeds = [(seed, number) for number in range(count)]
    chunks = [seeds[k::16] for k in range(16)]
    parts = pool.map(histories, [case] * len(chunks), chunks)
    return np.array([pair for part in parts for pair in part])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--histories", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    began = time.monotonic()
    told: dict[str, object] = {"histories": options.histories, "seed": options.seed}
    false, power, median = {}, {}, {}
    naive_false, naive_power, naive_median = {}, {}, {}
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        print(f"{'case':24} {'judge':>16} {'usual test':>16}")
        for name, case in NULLS.items():
            found = run(case, options.histories, options.seed, pool)
            false[name], naive_false[name] = np.isfinite(found).mean(axis=0).round(4).tolist()
            print(f"{name + ' (same)':24} {false[name]:16.2%} {naive_false[name]:16.2%}")
        for name, case in WORSE.items():
            found = run(case, max(options.histories // 5, 1), options.seed, pool)
            power[name], naive_power[name] = np.isfinite(found).mean(axis=0).round(4).tolist()
            median[name], naive_median[name] = np.median(found, axis=0).tolist()
            ours = f"{power[name]:.1%} at {median[name]:g}"
            print(f"{name:24} {ours:>16} {naive_power[name]:>8.1%} at {naive_median[name]:g}")
    told |= {"false_rollback": false, "power": power, "median_ticks": median}
    told["naive"] = {
        "false_rollback": naive_false,
        "power": naive_power,
        "median_ticks": naive_median,
    }
    print(json.dumps(told | {"seconds": round(time.monotonic() - began, 1)}))


if __name__ == "__main__":
    main()
