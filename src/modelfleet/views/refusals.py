"""What the gateway refuses, and of which endpoints it sheds what is too much."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from modelfleet.core.clock import iso, now_us
from modelfleet.core.refusals import Reason
from modelfleet.telemetry.gateway import KEPT_US, STEP_US
from modelfleet.wiring import Fleet

MINUTES = KEPT_US // 60_000_000
_RECENT_US = 30_000_000
_FRESH_US = 15_000_000
WORDS: Mapping[str, str] = {
    Reason.OVERLOAD: "beyond the caller's fair share while the model has too much to do",
    Reason.RATE_LIMIT: "beyond the rate limit of each caller",
    Reason.KEY_MISSING: "without a key",
    Reason.KEY_EXPIRED: "with a key that has expired",
    Reason.KEY_INVALID: "with a key that is not valid",
    Reason.NOT_ALLOWED: "with a key that may not do this here, or was revoked",
    Reason.NOT_FOUND: "for a version or path that is not there",
    Reason.MALFORMED: "could not be read",
    Reason.TOO_LARGE: "too large",
    Reason.SLOW_CLIENT: "did not arrive in time",
    Reason.NO_WORKER: "no worker could be reached",
    Reason.TIMEOUT: "without an answer in time",
    Reason.GATEWAY_FULL: "while the gateway was short of memory",
    Reason.OTHER: "for other reasons",
}


@dataclass(frozen=True)
class Shed:
    """More is asked than the model can answer; the gateway refuses what is too much."""

    of_a_caller_per_second: float
    """requests that each caller may send, for now"""
    refused_per_second: float | None
    """of all callers, in the last half minute; None if nobody counts"""
    since: str
    """empty if that was not noted"""


@dataclass(frozen=True)
class Refused:
    reason: str
    count: int
    words: str


@dataclass(frozen=True)
class Refusals:
    """Of one endpoint, by the gateway itself; what workers refuse is in the prediction log."""

    known: bool
    """False: the counters were not read in the last seconds, so there may be more"""
    minutes: int
    """that `reasons` are about"""
    reasons: tuple[Refused, ...]
    """the most frequent first"""
    shed: Shed | None


def refusals_of(fleet: Fleet, endpoint: str) -> Refusals:
    """The last minutes. The caller checks who reads."""
    now = now_us()
    found = fleet.evidence.refused(now - KEPT_US).get(endpoint, {})
    return Refusals(
        known=_counted(fleet, now),
        minutes=MINUTES,
        reasons=tuple(Refused(name, n, WORDS.get(name, name)) for name, n in found.items()),
        shed=shed_by_endpoint(fleet).get(endpoint),
    )


def shed_by_endpoint(fleet: Fleet) -> dict[str, Shed]:
    """Endpoints that are overloaded just now. The caller checks who reads."""
    shares = fleet.gateway.shares()
    if not shares:
        return {}
    now = now_us()
    begin = (now - _RECENT_US) // STEP_US * STEP_US
    refused = fleet.evidence.refused(begin)
    known = _counted(fleet, now)

    def rate(endpoint: str, since_us: int) -> float:
        seconds = max((now - max(begin, since_us)) / 1e6, 1.0)
        return refused.get(endpoint, {}).get(Reason.OVERLOAD, 0) / seconds

    return {
        one.endpoint: Shed(
            one.per_second,
            rate(one.endpoint, one.since_us) if known else None,
            iso(one.since_us) if one.since_us else "",
        )
        for one in shares
    }


def _counted(fleet: Fleet, now: int) -> bool:
    return now - fleet.evidence.gateway_seen() < _FRESH_US
