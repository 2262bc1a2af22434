"""Ranges of semantic versions, as package managers write them: `1.2`, `^1.2`, `~1.2.3`, `>=1,<3`.

`1.2` and `1.2.x` are all releases 1.2.*, `^1.2` goes up to the next major version (below 1.0: the
next minor), `~1.2.3` to the next minor. Prereleases match only where the range names one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from modelfleet.core.errors import InvalidInput
from modelfleet.registry import semver
from modelfleet.registry.semver import Semver

_PART = re.compile(r"(\^|~|>=|<=|>|<|=)?\s*v?(\d{1,9})(?:\.(\d{1,9}|[xX*]))?(?:\.(\d{1,9}|[xX*]))?")
_LOWEST = "!"
"""sorts before every prerelease of a version"""


@dataclass(frozen=True)
class Bounds:
    """Sort keys: `low <= key < high`; empty is unbounded."""

    low: str = ""
    high: str = ""
    prereleases: bool = False

    def holds(self, version: Semver) -> bool:
        key = version.sort_key
        inside = key >= self.low and (not self.high or key < self.high)
        return inside and (self.prereleases or not version.prerelease)


def parse(text: str) -> Bounds:
    """The bounds of a range. Raises `InvalidInput`."""
    low, high, prereleases = "", "", False
    parts = [part.strip() for part in text.split(",")]
    if not parts or len(text) > 200:
        raise _unknown(text)
    for part in parts:
        own = _part(part)
        low = max(low, own.low)
        high = min(high, own.high) if high and own.high else high or own.high
        prereleases = prereleases or own.prereleases
    return Bounds(low, high, prereleases)


def _part(text: str) -> Bounds:
    match = _PART.fullmatch(text)
    if match is None:
        return _exact(text)
    operator, *numbers = match.groups()
    given = [int(n) for n in numbers if n is not None and n.isdigit()]
    if operator in (">=", ">", "<", "<=", "=") or len(given) == 3:
        return _compared(operator or "=", given, text)
    return Bounds(_from(given), _from(_next(operator or "", given)))


def _compared(operator: str, given: list[int], text: str) -> Bounds:
    if operator in ("^", "~"):
        return Bounds(_from(given), _from(_next(operator, given)))
    after = _from([*given[:-1], given[-1] + 1])
    low = _from(given)
    if len(given) == 3:
        low = Semver(given[0], given[1], given[2]).sort_key
        after = low + "~"
    if operator == "=":
        return Bounds(low, after)
    if operator == ">=":
        return Bounds(low)
    if operator == ">":
        return Bounds(after)
    return Bounds("", after if operator == "<=" else low)


def _exact(text: str) -> Bounds:
    try:
        operator, rest = re.fullmatch(r"(>=|<=|>|<|=)?\s*(.+)", text).groups()  # type: ignore[union-attr]
        key = semver.parse(rest).sort_key
    except (AttributeError, InvalidInput) as error:
        raise _unknown(text) from error
    return {
        ">=": Bounds(key, "", True),
        ">": Bounds(key + "~", "", True),
        "<": Bounds("", key, True),
        "<=": Bounds("", key + "~", True),
    }.get(operator or "=", Bounds(key, key + "~", True))


def _next(operator: str, given: list[int]) -> list[int]:
    """The first version that is not in the range any more."""
    if operator == "^":
        for place, number in enumerate(given):
            if number or place == len(given) - 1:
                return [*given[:place], number + 1]
    if operator == "~":
        given = given[:2]
    return [*given[:-1], given[-1] + 1]


def _from(given: list[int]) -> str:
    """The sort key before everything that begins with these numbers."""
    major, minor, patch = [*given, 0, 0][:3]
    return Semver(major, minor, patch).sort_key[:-1] + _LOWEST


def _unknown(text: str) -> InvalidInput:
    return InvalidInput(
        f"{text[:100]!r} is no range of versions.",
        hint="Write it like 1.2, ^1.2, ~1.2.3 or >=1,<3.",
    )
