"""Semantic versions (semver.org, 2.0.0): parsing, ordering and the proposed next one."""

from __future__ import annotations

import re
from dataclasses import dataclass

from modelfleet.core.errors import InvalidInput

_PATTERN = re.compile(
    r"(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})"
    r"(?:-((?:0|[1-9]\d*|\d*[A-Za-z-][0-9A-Za-z-]*)(?:\.(?:0|[1-9]\d*|\d*[A-Za-z-][0-9A-Za-z-]*))*))?"
    r"(?:\+([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?",
    re.ASCII,
)


@dataclass(frozen=True)
class Semver:
    major: int
    minor: int
    patch: int
    prerelease: str = ""
    build: str = ""

    def __str__(self) -> str:
        text = f"{self.major}.{self.minor}.{self.patch}"
        if self.prerelease:
            text += f"-{self.prerelease}"
        return text + (f"+{self.build}" if self.build else "")

    @property
    def sort_key(self) -> str:
        """Text that sorts as section 11 of the specification orders versions.

        Build metadata has no part in it. A release sorts after its prereleases; numeric
        identifiers sort by value and before words; a longer list of identifiers after a shorter.
        """
        numbers = f"{self.major:09d}.{self.minor:09d}.{self.patch:09d}"
        if not self.prerelease:
            return f"{numbers}~"
        parts = [
            f"0{len(part):03d}{part}" if part.isdigit() else f"1{part}"
            for part in self.prerelease.split(".")
        ]
        return f"{numbers}!" + "!".join(parts)


def parse(text: str) -> Semver:
    match = _PATTERN.fullmatch(text)
    if match is None or len(text) > 100:
        raise InvalidInput(
            f"{text[:100]!r} is not a semantic version.", hint="Write it like 1.4.0 or 2.0.0-rc.1."
        )
    major, minor, patch, prerelease, build = match.groups()
    return Semver(int(major), int(minor), int(patch), prerelease or "", build or "")


def propose(last: Semver | None, *, compatible: bool, same_content: bool) -> Semver:
    """The next version: major if clients could break, minor if the model changed, else patch."""
    if last is None:
        return Semver(1, 0, 0)
    if not compatible:
        return Semver(last.major + 1, 0, 0)
    if not same_content:
        return Semver(last.major, last.minor + 1, 0)
    return Semver(last.major, last.minor, last.patch + 1)
