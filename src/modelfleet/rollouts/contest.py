"""Several new versions beside the stable one: who harms, who is best, and who gets what share.

A/B/n: each arm is judged against stable; an arm that harms is taken out alone, and at the end the
best of those that are proven wins, or none. Bandit: Thompson sampling on successes or outcomes,
from stored sums and a seed, so that the same history gives the same weights. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from modelfleet.rollouts.analysis import Arm as Counts
from modelfleet.rollouts.judge import Finding, Verdict
from modelfleet.rollouts.plan import FULL, Bandit, Spec
from modelfleet.rollouts.step import Contest

DRAWS = 4000
LEAST = 2
"""outcomes below which nothing is known of an arm"""


@dataclass(frozen=True)
class Reward:
    """What an arm has earned: sums."""

    requests: int = 0
    successes: int = 0
    outcomes: int = 0
    outcome_sum: float = 0.0
    outcome_squares: float = 0.0

    def plus(self, counts: Counts) -> Reward:
        return Reward(
            self.requests + counts.requests,
            self.successes + counts.requests - counts.errors,
            self.outcomes + counts.outcomes,
            self.outcome_sum + counts.outcome_sum,
            self.outcome_squares + counts.outcome_squares,
        )

    @property
    def value(self) -> float:
        """Larger is better: the mean outcome, or the share of successes."""
        if self.outcomes:
            return self.outcome_sum / self.outcomes
        return self.successes / self.requests if self.requests else 0.0


@dataclass(frozen=True)
class Standing:
    """One arm as it stands. The stable version has no verdict and is never out."""

    share: int
    reward: Reward
    verdict: Verdict | None = None
    load_error: str = ""
    out: bool = False


def look(
    spec: Spec,
    stable: Reward,
    arms: Sequence[Standing],
    names: Sequence[str],
    *,
    step_seconds: float,
    since_shared: float,
    shares: int,
) -> Contest:
    """What the test has come to. names: of the arms; shares: how often weights have moved."""
    harmed = _harmed(arms, names)
    if harmed is not None:
        return harmed
    left = [k for k, arm in enumerate(arms) if not arm.out]
    if not left:
        return Contest(True, None, "Every arm was taken out: the stable version stays.")
    if spec.bandit is not None:
        return _bandit(spec, spec.bandit, stable, arms, names, left, since_shared, shares)
    return _judged(spec, stable, arms, names, left, step_seconds)


def _harmed(arms: Sequence[Standing], names: Sequence[str]) -> Contest | None:
    for k, arm in enumerate(arms):
        if arm.out:
            continue
        if arm.load_error:
            return Contest(
                sentence=f"{names[k]} is taken out: it can't be loaded: {arm.load_error}", harmed=k
            )
        if arm.verdict is not None and arm.verdict.finding is Finding.HARM:
            sentence = f"{names[k]} is taken out. {arm.verdict.sentence}"
            return Contest(sentence=sentence, harmed=k)
    return None


def _judged(
    spec: Spec,
    stable: Reward,
    arms: Sequence[Standing],
    names: Sequence[str],
    left: Sequence[int],
    step_seconds: float,
) -> Contest:
    proven = [k for k in left if _found(arms[k], Finding.PROOF)]
    open_ones = [names[k] for k in left if k not in proven]
    if step_seconds < spec.step_seconds:
        return Contest(sentence=f"The test lasts at least {spec.step_seconds:g} s.")
    if open_ones and step_seconds < spec.inconclusive_after_seconds:
        return Contest(sentence=f"Not decided yet: {', '.join(open_ones)}.")
    if open_ones and not proven:
        return Contest(sentence=f"Not decided: {', '.join(open_ones)}.")
    best = max(proven, key=lambda k: (arms[k].reward.value, -k))
    facts = ", ".join(f"{names[k]} {arms[k].reward.value:.4g}" for k in proven)
    sentence = f"{names[best]} is the best of the proven ({facts}; stable {stable.value:.4g})."
    if spec.on_end == "keep":
        return Contest(True, None, f"{sentence} Nothing is promoted, as planned.")
    return Contest(True, best, sentence)


def _found(arm: Standing, finding: Finding) -> bool:
    return arm.verdict is not None and arm.verdict.finding is finding


def _bandit(
    spec: Spec,
    bandit: Bandit,
    stable: Reward,
    arms: Sequence[Standing],
    names: Sequence[str],
    left: Sequence[int],
    since_shared: float,
    shares: int,
) -> Contest:
    """Weights move only at the set interval; then, too, is looked whether one is best."""
    if since_shared < bandit.every_seconds:
        return Contest(sentence=f"Weights move every {bandit.every_seconds:g} s.")
    rewards = [stable, *(arms[k].reward for k in left)]
    best = chances(bandit, rewards, shares)
    named = ["stable", *(names[k] for k in left)]
    facts = ", ".join(f"{name} {chance:.0%}" for name, chance in zip(named, best, strict=True))
    enough = min(_seen(bandit, one) for one in rewards) >= max(spec.analysis.min_samples, LEAST)
    top = int(best.argmax())
    if enough and best[top] >= bandit.probability:
        sentence = f"{named[top]} is the best with probability {best[top]:.1%} ({facts})."
        if top == 0 or spec.on_end == "keep":
            return Contest(True, None, sentence)
        return Contest(True, left[top - 1], sentence)
    moved = shared(bandit, best)
    given = dict(zip(left, moved[1:], strict=True))
    wanted = tuple(given.get(k, 0) for k in range(len(arms)))
    return Contest(sentence=f"The best with what probability: {facts}.", shares=wanted)


def _seen(bandit: Bandit, reward: Reward) -> int:
    return reward.outcomes if bandit.reward == "outcome" else reward.requests


def chances(bandit: Bandit, rewards: Sequence[Reward], number: int) -> NDArray[np.float64]:
    """With what probability each is the best. The same sums, seed and number say the same."""
    rng = np.random.default_rng([bandit.seed & 0xFFFFFFFF, number])
    drawn = np.empty((len(rewards), DRAWS))
    for k, one in enumerate(rewards):
        if bandit.reward == "success":
            failed = one.requests - one.successes
            drawn[k] = rng.beta(1 + one.successes, 1 + failed, DRAWS)
        else:
            drawn[k] = _means(rng, one)
    wins = np.bincount(drawn.argmax(axis=0), minlength=len(rewards))
    return wins / DRAWS


def _means(rng: np.random.Generator, one: Reward) -> NDArray[np.float64]:
    """Draws of an arm's mean outcome; of an unknown arm they may be anything."""
    if one.outcomes < LEAST:
        return rng.normal(0.0, 1e6, DRAWS)
    n, mean = one.outcomes, one.outcome_sum / one.outcomes
    spread = max(one.outcome_squares / n - mean * mean, 1e-12) * n / (n - 1)
    return mean + math.sqrt(spread / n) * rng.standard_t(n - 1, DRAWS)


def shared(bandit: Bandit, best: NDArray[np.float64]) -> tuple[int, ...]:
    """Basis points for each, the stable version first; they add up, and none is below the floor."""
    free = FULL - bandit.floor * len(best)
    found = [bandit.floor + int(free * one) for one in best]
    found[int(best.argmax())] += FULL - sum(found)
    return tuple(found)


def without(arms: Sequence[int], out: int) -> tuple[int, ...]:
    """Shares of the arms after one is taken out: what it had goes back to the stable version."""
    return tuple(0 if k == out else share for k, share in enumerate(arms))


def rewarded(
    rewards: Sequence[Reward], stable: Counts | None, arm: int, counts: Counts
) -> tuple[Reward, ...]:
    """The sums after one tick of one arm. stable: None if its tick was counted with another arm."""
    found = list(rewards)
    if stable is not None:
        found[0] = found[0].plus(stable)
    found[arm + 1] = found[arm + 1].plus(counts)
    return tuple(replace(one) for one in found)
