"""Windows of time: when steps may advance, and when nothing may.

A window begins at the moments of a cron expression and lasts some seconds, or it lies once between
two moments. Times of a cron expression are those of its time zone. Pure but for the clock, which
callers give.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from modelfleet.core.clock import from_us, iso, to_us
from modelfleet.core.errors import InvalidInput

_LOOK_AHEAD = 400
"""openings of a window that are tried before it is called impossible"""
YEARS = timedelta(days=5 * 366)


@dataclass(frozen=True)
class Window:
    cron: str = ""
    """when it begins, again and again: `0 9 * * 1-5`"""
    seconds: float = 0.0
    """how long it lasts from each beginning"""
    begins: str = ""
    """instead of cron: ISO 8601 with a zone; empty is always"""
    ends: str = ""
    """ISO 8601 with a zone; empty is never"""
    zone: str = "UTC"
    """of the cron expression"""
    reason: str = ""

    def __post_init__(self) -> None:
        if bool(self.cron) == bool(self.begins or self.ends):
            raise InvalidInput("A window has a cron expression, or a beginning or an end.")
        if self.cron:
            _check_cron(self)
            return
        begins, ends = parse_moment(self.begins), parse_moment(self.ends)
        if begins is not None and ends is not None and ends <= begins:
            raise InvalidInput(f"The window ends ({self.ends}) before it begins ({self.begins}).")

    @property
    def title(self) -> str:
        if self.cron:
            return f"{self.cron} ({self.zone}) for {_span(self.seconds)}"
        return f"{self.begins or 'always'} to {self.ends or 'for ever'}"


def parse_moment(text: str) -> int | None:
    """Microseconds since 1970; None for an empty text. Raises `InvalidInput`."""
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidInput(f"{text[:60]!r} is no time: write 2027-01-31T08:00:00Z.") from error
    if found.tzinfo is None:
        raise InvalidInput(f"{text[:60]!r} has no time zone: write 2027-01-31T08:00:00Z.")
    return to_us(found)


def _check_cron(window: Window) -> None:
    if not 0 < window.seconds < math.inf:
        raise InvalidInput(f"The window of {window.cron!r} needs a duration.")
    try:
        zone = ZoneInfo(window.zone)
    except (KeyError, ValueError, OSError) as error:
        raise InvalidInput(f"{window.zone[:60]!r} is no time zone.") from error
    if len(window.cron.split()) != 5:
        raise InvalidInput(f"{window.cron[:80]!r} is no cron expression of five fields.")
    try:
        now = datetime.now(UTC).astimezone(zone)
        first = next(CronSim(window.cron, now))
    except CronSimError as error:
        raise InvalidInput(f"{window.cron[:80]!r} is no cron expression: {error}.") from error
    except StopIteration:
        first = None
    if first is None or first - now > YEARS:
        raise InvalidInput(f"{window.cron!r} never comes.", hint="Is it the 30th of February?")


def held_until(window: Window, now: int) -> int | None:
    """The end of the window if `now` lies in it, in microseconds; None if it doesn't.

    A window without an end ends at the largest number.
    """
    if not window.cron:
        begins, ends = parse_moment(window.begins), parse_moment(window.ends)
        inside = (begins is None or begins <= now) and (ends is None or now < ends)
        return (ends if ends is not None else 2**62) if inside else None
    length = int(window.seconds * 1e6)
    moment = from_us(now).astimezone(ZoneInfo(window.zone))
    # Going back begins before the moment that is given.
    last = next(CronSim(window.cron, moment + timedelta(seconds=1), reverse=True), None)
    if last is None:
        return None
    began = to_us(last)
    return began + length if began <= now < began + length else None


def openings(window: Window, after: int) -> Sequence[tuple[int, int]]:
    """The next times of the window from `after` on, as (begin, end)."""
    if not window.cron:
        begins, ends = parse_moment(window.begins), parse_moment(window.ends)
        first, last = max(begins or 0, after), ends if ends is not None else 2**62
        return [(first, last)] if first < last else []
    found = []
    end = held_until(window, after)
    if end is not None:
        found.append((after, end))
    times = CronSim(window.cron, from_us(after).astimezone(ZoneInfo(window.zone)))
    length = int(window.seconds * 1e6)
    for _, moment in zip(range(_LOOK_AHEAD), times, strict=False):
        found.append((to_us(moment), to_us(moment) + length))
    return found


def blocked(
    now: int,
    *,
    not_before: str = "",
    windows: Sequence[Window] = (),
    freezes: Sequence[Window] = (),
) -> str:
    """Why nothing may advance now; empty if it may."""
    for one in freezes:
        end = held_until(one, now)
        if end is not None:
            until = f" until {iso(end)}" if end < 2**61 else ""
            return f"Frozen{until}: {one.reason or one.title}."
    earliest = parse_moment(not_before)
    if earliest is not None and now < earliest:
        return f"Not before {iso(earliest)}."
    if windows and all(held_until(one, now) is None for one in windows):
        return f"Outside of its windows: {'; '.join(one.title for one in windows)}."
    return ""


def check_possible(
    now: int, *, not_before: str, windows: Sequence[Window], freezes: Sequence[Window]
) -> None:
    """Raises `InvalidInput` if there is no moment ahead at which anything could advance."""
    after = max(now, parse_moment(not_before) or now)
    opened = [span for one in windows for span in openings(one, after)]
    if windows and not opened:
        raise InvalidInput("The rollout's windows are over before it may begin.")
    spans = sorted(opened) if windows else [(after, 2**62)]
    for begin, end in spans:
        moment = begin
        for _ in range(_LOOK_AHEAD):
            held = [held_until(one, moment) for one in freezes]
            later = [one for one in held if one is not None]
            if not later:
                return
            moment = max(later)
            if moment >= end:
                break
    raise InvalidInput(
        "The schedule is impossible: whenever it may advance, it is frozen.",
        hint="Look at windows, not_before and freeze together.",
    )


def _span(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:g} {unit}"
    return f"{seconds:g} s"
