"""Domain types of collaboration, and the rules of what people write."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field

from modelfleet.core.errors import InvalidInput

TEXT_LIMIT = 10_000
"""characters of a comment"""


@dataclass(frozen=True)
class Person:
    principal: str
    since: str


@dataclass(frozen=True)
class Comment:
    id: str
    model: str
    version: str
    author: str
    text: str
    created_at: str
    edited_at: str | None


@dataclass(frozen=True)
class Review:
    id: str
    model: str
    version: str
    requested_by: str
    reviewer: str
    """empty if anybody of `role` may answer"""
    role: str
    state: str
    """open, approved, changes-requested or withdrawn"""
    note: str
    """what the requester asks for"""
    answer: str
    answered_by: str
    created_at: str
    answered_at: str | None


@dataclass(frozen=True)
class Template:
    """What a new model of the team starts with, where whoever makes it says nothing."""

    team: str
    name: str
    updated_by: str = ""
    updated_at: str = ""
    criticality: str | None = None
    business_function: str | None = None
    isolation: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    requirements: tuple[str, ...] = ()
    """added to those of each registered version that does not name the package itself"""


def plain(text: str, what: str, *, empty: bool = False) -> str:
    """The text with `\\n` as line end. Raises `InvalidInput` for what is not plain text."""
    found = text.replace("\r\n", "\n").strip()
    if not found and not empty:
        raise InvalidInput(f"{what} needs some text.")
    if len(found) > TEXT_LIMIT:
        raise InvalidInput(f"{what} has at most {TEXT_LIMIT} characters, not {len(found)}.")
    if any(unicodedata.category(one) in ("Cc", "Cs") and one not in "\n\t" for one in found):
        raise InvalidInput(f"{what} is plain text, without control characters.")
    return found
