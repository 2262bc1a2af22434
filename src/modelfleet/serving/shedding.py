"""When a model is asked for more than it can answer: what each caller may still ask of it.

Workers tell how much they served and refused and how busy the model was. Twice a second the share
of each caller follows from that, and the gateway refuses the rest (see `gateway.shed`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from modelfleet.core.clock import now_us
from modelfleet.serving.gateway import EndpointRoutes, FairShare, GatewayFiles
from modelfleet.serving.pulse import Told, read_told

log = structlog.get_logger(__name__)
_SATURATED = 0.8
_BUSY = 0.9
_AIM = 0.97
"""Shares of the time in which a model runs: where refusals mean that it can't do more; where it has
enough to do; and as it should be, for a queue that is never empty makes answers late."""
_TOLERATED = 0.05
"""Share of the requests that workers may refuse."""
_FASTEST = 2.0
_STEEPEST = 4.0
"""A share grows and shrinks by no more at a time."""
_UNUSED = 1.5
"""A share that is so much larger than all that is served limits nobody."""
_CHANGE = 0.05
"""Smaller changes are not worth telling the gateway."""
_OVER_S = 30.0
"""without a share until an overload is over: at its edge shares come and go"""
_SHORTEST_S = 0.45
"""Of what a rate is made; workers tell four times a second."""
_LAG_S = 0.1
"""until a change counts at the gateway, and what was let in before it is out of the queue"""


@dataclass(frozen=True)
class Reading:
    """Of one version in all replicas; requests a second."""

    served: float
    refused: float
    busy: float
    """share of the time in which it ran"""
    since: float = 0.0
    """monotonic seconds"""


def fair_share(before: float | None, now: Reading) -> float | None:
    """What each caller may ask, in requests a second; None for no limit.

    Shares are max-min fair. Let callers ask d_i, of which min(d_i, f) came through at the share f:
    r times what the model can serve, C. Then f/r is not below the fair share F, for which
    sum(min(d_i, F)) = C, because sum(min(d_i, f/r)) >= sum(min(d_i, f))/r = C. So shrinking by r
    again and again ends at F without ever knowing the callers.
    """
    asked = now.served + now.refused
    # Where a model has time left, refusals mean that deadlines are short.
    if now.refused > _TOLERATED * asked and now.busy >= _SATURATED:
        if not now.served:  # it hangs
            return before
        most = asked if before is None else min(before, asked)  # nobody asks more than all together
        return max(most * _AIM / min(asked / now.served, _STEEPEST), 1.0)
    if before is None or now.busy >= _BUSY:
        return before
    if before > _UNUSED * now.served:
        return None
    return before * (min(_AIM / now.busy, _FASTEST) if now.busy else _FASTEST)


@dataclass(frozen=True)
class _Overload:
    since_us: int
    seen: float
    """when there last was a share; monotonic seconds"""


class Shedding:
    """Run `look` about four times a second. endpoints: as the gateway has them."""

    def __init__(
        self,
        controls: Path,
        endpoints: Callable[[], Sequence[EndpointRoutes]],
        gateway: GatewayFiles,
    ) -> None:
        """controls: the folder of the workers' control blocks."""
        self._controls = controls
        self._endpoints = endpoints
        self._gateway = gateway
        self._changed: dict[str, float] = {}
        self._known: dict[str, tuple[Told, dict[int, Reading]]] = {}
        self._overloads: dict[str, _Overload] = {}
        self._began: float | None = None

    def look(self) -> None:
        readings = self._readings()
        self._began = self._began or time.monotonic()
        if time.monotonic() - self._began < 2 * _SHORTEST_S:
            return  # there are no rates yet: shares stay as they are
        before = {one.endpoint: one for one in self._gateway.shares()}
        if not readings and not before and not self._overloads:
            return
        shares = _shares(self._endpoints(), readings, before, self._changed)
        after = {one.endpoint: one for one in self._follow(shares, before)}
        if not _differ(before, after):
            return
        self._gateway.set_shares(list(after.values()))
        changed = {name for name, one in after.items() if before.get(name) != one}
        self._changed |= dict.fromkeys(changed, time.monotonic())

    def _follow(
        self, shares: Iterable[FairShare], before: Mapping[str, FairShare]
    ) -> Iterator[FairShare]:
        """Each with the moment at which its overload began. Says when one begins and ends."""
        now = time.monotonic()
        for name, old in before.items():  # of a control plane before us
            self._overloads.setdefault(name, _Overload(old.since_us or now_us(), now))
        for one in shares:
            name = one.endpoint
            if name not in self._overloads:
                of_a_caller = round(one.per_second, 3)
                log.warning("overload", endpoint=name, of_a_caller_per_second=of_a_caller)
                self._overloads[name] = _Overload(now_us(), now)
            known = self._overloads[name] = replace(self._overloads[name], seen=now)
            yield replace(one, since_us=known.since_us)
        for name, known in list(self._overloads.items()):
            if now - known.seen > _OVER_S:
                del self._overloads[name]
                seconds = round((now_us() - known.since_us) / 1e6 - (now - known.seen))
                log.info("the overload is over", endpoint=name, after_seconds=seconds)

    def _readings(self) -> dict[int, Reading | None]:
        """By version. None while not every replica of its pool tells of it: then too much is asked
        of some, and the others might still answer."""
        pools: dict[str, list[dict[int, Reading]]] = {}
        known: dict[str, tuple[Told, dict[int, Reading]]] = {}
        for path in sorted(self._controls.glob("*.ctl")):
            now = read_told(path)
            if now is None:
                continue
            before, rates = self._known.get(path.name, (now, {}))
            if before.incarnation != now.incarnation:
                before, rates = now, {}
            if now.seconds - before.seconds >= _SHORTEST_S:
                before, rates = now, dict(_rates(before, now))
            known[path.name] = before, rates
            pools.setdefault(path.stem.rpartition("-")[0], []).append(rates)
        self._known = known
        found: dict[int, Reading | None] = {}
        for replicas in pools.values():
            for index in {index for one in replicas for index in one}:
                told = [one[index] for one in replicas if index in one]
                found[index] = _together(told) if len(told) == len(replicas) else None
        return found


def _rates(before: Told, now: Told) -> Iterator[tuple[int, Reading]]:
    """Between the two, of what was told both times and not loaded anew in between."""
    seconds = now.seconds - before.seconds
    earlier = {one.version: one for one in before.loads}
    for one in now.loads:
        old = earlier.get(one.version)
        if old is None or one.served < old.served or one.refused < old.refused:
            continue
        busy = (one.busy_ns - old.busy_ns) / 1e9 / seconds
        yield (
            one.version,
            Reading(
                (one.served - old.served) / seconds,
                (one.refused - old.refused) / seconds,
                min(max(busy, 0.0), 1.0),
                before.seconds,
            ),
        )


def _together(told: Sequence[Reading]) -> Reading:
    return Reading(
        sum(one.served for one in told),
        sum(one.refused for one in told),
        sum(one.busy for one in told) / len(told),
        min(one.since for one in told),
    )


def _shares(
    endpoints: Sequence[EndpointRoutes],
    readings: Mapping[int, Reading | None],
    before: Mapping[str, FairShare],
    changed: Mapping[str, float],
) -> Iterator[FairShare]:
    """One whose workers don't tell yet what came of its last change stays as it is."""
    for endpoint in endpoints:
        version, old = _only_version(endpoint), before.get(endpoint.name)
        if version is None or version not in readings:
            continue
        reading, share = readings[version], old.per_second if old else None
        if reading is not None and reading.since > changed.get(endpoint.name, 0.0) + _LAG_S:
            share = fair_share(share, reading)
        if share is not None:
            yield FairShare(endpoint.name, share, endpoint.priority)


def _only_version(endpoint: EndpointRoutes) -> int | None:
    """The version that has all traffic. While there are several, workers refuse by themselves: less
    of all requests would be too little for one of them and too much for the other."""
    live = [target.version_index for target in endpoint.targets if target.weight]
    return live[0] if len(live) == 1 and not endpoint.rules else None


def _differ(before: Mapping[str, FairShare], after: Mapping[str, FairShare]) -> bool:
    return before.keys() != after.keys() or any(
        one.priority != before[name].priority
        or abs(one.per_second / before[name].per_second - 1) > _CHANGE
        for name, one in after.items()
    )
