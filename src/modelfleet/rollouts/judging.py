"""From a rollout's row and the collector's ticks to what the judge says of each of its arms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from modelfleet.registry import Version
from modelfleet.rollouts import contest as contests
from modelfleet.rollouts import judge, limits
from modelfleet.rollouts.analysis import Tick
from modelfleet.rollouts.contest import Reward
from modelfleet.rollouts.judge import Finding, JudgeState, Latency, Verdict
from modelfleet.rollouts.plan import FULL, Kind, Limits, Step
from modelfleet.rollouts.step import Contest, State
from modelfleet.rollouts.store import NewEvidence, Notes, Row

_SECOND = 1_000_000
_JUDGED = frozenset({State.STEPPING, State.PAUSED, State.AWAITING_APPROVAL, State.BAKING})


class TickSource(Protocol):
    """Closed judge ticks of two versions (by index), each once, in order."""

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
        """loss, delay_seconds: labels of predictions made since then, in the tick in which these
        are so old. Told only where labels count."""

    def tick_at(self, moment_us: int) -> int:
        """The number of the tick in which a moment lies."""

    def latency(self, version: int, before_us: int) -> tuple[int, ...]:
        """Requests by latency bucket in the minutes before a moment."""

    def closed_tick(self) -> int:
        """The number of the newest tick that is closed; those up to it don't change any more."""


@dataclass(frozen=True)
class Judged:
    states: tuple[JudgeState, ...]
    verdicts: Sequence[Verdict | None]
    notes: Notes
    evidence: Sequence[NewEvidence] = ()
    beyond_limit: str = ""
    """how the new version breaks an absolute limit that the stable one keeps"""
    stable_breaks: str = ""
    """how the stable version itself breaks one"""
    baked: tuple[int, int] = (0, 0)
    """requests and errors of the present block of the bake, or of the first that was bad"""
    read: bool = False
    """ticks were asked for"""

    @property
    def verdict(self) -> Verdict | None:
        return self.verdicts[0] if self.verdicts else None


def is_judged(row: Row) -> bool:
    return row.state in _JUDGED


def _of_target(row: Row) -> int:
    """The arm that gets, or would get, all traffic."""
    return next((k for k, a in enumerate(row.arms) if a.version_id == row.to_version_id), 0)


def unchanged(row: Row, verdicts: Sequence[Verdict | None], stable: Version | None) -> Judged:
    """What was said before: there are no new ticks."""
    return _judged(row, row.judges, verdicts, row.notes, (), stable)


def take_in(
    row: Row,
    stable: Version | None,
    arms: Sequence[Version],
    source: TickSource | None,
    *,
    sticky: bool = False,
) -> Judged:
    """The judge's state after all closed ticks, and what it says.

    source: None reads none. sticky: each client counts once, in whichever step. Harm at any tick
    counts, however many are read at once.
    """
    if not is_judged(row) or row.applied_at is None or stable is None:
        return _judged(row, row.judges, (), row.notes, (), stable, read=source is not None)
    states = list(row.judges)
    verdicts: list[Verdict | None] = [_verdict(row, k, one, sticky) for k, one in enumerate(states)]
    notes = row.notes
    evidence: list[NewEvidence] = []
    lead = next((k for k, arm in enumerate(row.arms) if not arm.out), 0)
    for k, version in enumerate(arms):
        if source is None or row.arms[k].out or not _takes(row, k):
            continue
        first = source.tick_at(row.applied_at)
        if sticky and states[k].latency == Latency():
            # Clients that count once are too few to spend some on a warm-up.
            history = source.latency(stable.index, row.applied_at)
            states[k] = judge.know_latency(states[k], row.spec.analysis, history)
        after = max(states[k].last_tick, first - 1)
        for tick in source.ticks(stable.index, version.index, after, **_labels(row)):
            if tick.number <= states[k].last_tick:
                continue
            one = replace(tick, turning=tick.number <= first)
            states[k] = _update(row, states[k], one)
            notes = _noted(row, notes, k, one, leads=k == lead)
            if row.state is State.BAKING or not _step(row).is_judged:
                continue
            said = _verdict(row, k, states[k], sticky)
            assert said is not None
            evidence.append(NewEvidence(tick.number, k, row.step, said))
            before = verdicts[k]
            if before is None or before.finding is not Finding.HARM:
                verdicts[k] = said
    same = all(new is old for new, old in zip(states, row.judges, strict=True))
    kept = row.judges if same else tuple(states)
    return _judged(row, kept, verdicts, notes, evidence, stable, read=source is not None)


def _labels(row: Row) -> Mapping[str, Any]:
    """What labels the judge or the bandit wants."""
    analysis, bandit = row.spec.analysis, row.spec.bandit
    loss = analysis.outcomes
    if loss is None and bandit is not None and bandit.reward == "outcome":
        loss = "error_rate"
    if loss is None:
        return {}
    delay = analysis.outcomes_delay_seconds
    return {"loss": loss, "delay_seconds": delay, "since_us": row.started_at}


def _takes(row: Row, arm: int) -> bool:
    """In the bake only the one that was promoted gets requests."""
    return row.state is not State.BAKING or arm == _of_target(row)


def _step(row: Row) -> Step:
    return row.spec.plan[row.step] if row.spec.plan else Step()


def _update(row: Row, state: JudgeState, tick: Tick) -> JudgeState:
    """One tick. Who gets a preview was chosen, so that it can be compared with nobody: only the
    hard limit counts."""
    after = judge.update(state, row.spec.analysis, tick)
    if row.state is State.BAKING or _step(row).is_judged:
        return after
    return replace(
        state,
        lately=after.lately,
        stable_lately=after.stable_lately,
        broken=after.broken,
        last_tick=after.last_tick,
    )


def _noted(row: Row, notes: Notes, arm: int, tick: Tick, *, leads: bool) -> Notes:
    """Absolute limits and a bandit's rewards."""
    wanted, analysis = row.spec.limits, row.spec.analysis
    if wanted != Limits() and arm == _of_target(row):
        start = limits.begin(wanted, analysis)
        sides = {
            "stable": limits.update(notes.limits.get("stable", start), wanted, tick.stable),
            "canary": limits.update(notes.limits.get("canary", start), wanted, tick.canary),
        }
        notes = replace(notes, limits=sides)
    if row.spec.arms:
        rewards = notes.rewards or (Reward(),) * (len(row.arms) + 1)
        stable = tick.stable if leads else None
        seen = notes.seen + int(leads and not tick.turning)
        rewards = contests.rewarded(rewards, stable, arm, tick.canary)
        notes = replace(notes, rewards=rewards, seen=seen)
    return notes


def _verdict(row: Row, arm: int, state: JudgeState, sticky: bool) -> Verdict | None:
    spec = row.spec
    if row.state is State.BAKING or not spec.plan:
        return None
    step = _step(row)
    judged = [one for one in spec.plan[: row.step + 1] if one.is_judged]
    mirrored = bool(step.shadow) or (not step.weight and bool(judged and judged[-1].shadow))
    return judge.verdict(
        state,
        spec.analysis,
        steps=sum(one.weight > 0 and one.kind is Kind.WEIGHT for one in spec.plan),
        weight=pair_share(row, arm),
        mirrored=mirrored,
        arms=len(row.arms) * spec.phases,
        whole=sticky,
    )


def pair_share(row: Row, arm: int) -> float:
    """The arm's share of the traffic that it and the stable version get."""
    if not row.spec.arms:
        return _step(row).weight / FULL
    stable = FULL - sum(one.share for one in row.arms)
    own = row.arms[arm].share
    return own / (own + stable) if own else 0.0


def _judged(
    row: Row,
    states: tuple[JudgeState, ...],
    verdicts: Sequence[Verdict | None],
    notes: Notes,
    evidence: Sequence[NewEvidence],
    stable: Version | None,
    *,
    read: bool = False,
) -> Judged:
    beyond = stable_breaks = ""
    if notes.limits:
        wanted, analysis = row.spec.limits, row.spec.analysis
        start = limits.begin(wanted, analysis)
        beyond = limits.broken(notes.limits.get("canary", start), wanted, analysis)
        if stable is not None:
            other = notes.limits.get("stable", start)
            stable_breaks = limits.broken(other, wanted, analysis)
            beyond = "" if stable_breaks else beyond
    state = states[_of_target(row)]
    if row.state is State.BAKING and row.spec.analysis.outcomes:
        arms = len(row.arms) * row.spec.phases
        beyond = beyond or judge.late_harm(state, row.spec.analysis, arms=arms)
    return Judged(
        states,
        verdicts,
        notes,
        evidence,
        beyond,
        stable_breaks,
        state.broken or state.lately,
        read,
    )


def contest(
    row: Row,
    judged: Judged,
    versions: Mapping[str, Version],
    load_errors: Mapping[int, str],
    applied: bool,
    now: int,
) -> Contest:
    """What an A/B/n test has come to."""
    rewards = judged.notes.rewards or (Reward(),) * (len(row.arms) + 1)
    known = [versions[arm.version_id] for arm in row.arms]
    verdicts = judged.verdicts or [None] * len(row.arms)
    arms = [
        contests.Standing(
            arm.share,
            rewards[k + 1],
            verdicts[k],
            load_errors.get(known[k].index, ""),
            bool(arm.out),
        )
        for k, arm in enumerate(row.arms)
    ]
    since = (now - row.step_at) / _SECOND if applied else 0.0
    shared = (now - max(judged.notes.shared_at, row.step_at)) / _SECOND if applied else 0.0
    if not judged.notes.seen:
        shared = 0.0  # weights that moved before anything was seen of them would learn nothing
    return contests.look(
        row.spec,
        rewards[0],
        arms,
        [one.version for one in known],
        step_seconds=since,
        since_shared=shared,
        shares=judged.notes.shares,
    )
