"""What a key says.

A scope is the name of an endpoint, or `*` for all; with `:infer`, `:metadata` or `:feedback` behind
it, only that may be done there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from modelfleet.core.errors import InvalidInput

ISSUER = "modelfleet"
AUDIENCE = "modelfleet"
ACTIONS = ("infer", "metadata", "feedback")
PRIORITIES = ("high", "normal", "low")

_SCOPE = re.compile(rf"(\*|[A-Za-z0-9._-]+)(?::({'|'.join(ACTIONS)}))?")


ALL = "*"
NAMES = ","
"""how the claim `scope` begins if it only names endpoints, without actions"""


def scope_claim(scopes: Sequence[str]) -> str:
    """Scopes as the gateway reads them: `*`, or `,a,b,`, or `:,a:infer,b,` if there are actions."""
    if not scopes or ALL in scopes:
        return ALL if scopes else ""
    names = f"{NAMES}{NAMES.join(scopes)}{NAMES}"
    return f":{names}" if ":" in names else names


def check_scopes(scopes: Sequence[str]) -> None:
    """Raises `InvalidInput` for what is no scope."""
    for scope in scopes:
        if not _SCOPE.fullmatch(scope):
            raise InvalidInput(
                f"{scope[:120]!r} is no scope of a key.",
                hint=f"Use ENDPOINT, or ENDPOINT:ACTION with one of {', '.join(ACTIONS)}; "
                "* stands for all endpoints.",
            )


def covers(held: Sequence[str], scope: str) -> bool:
    """Whether a key with the scopes `held` may do all that `scope` allows."""
    name, _, action = scope.partition(":")
    wide = {"*", name} | ({f"*:{action}", scope} if action else set())
    return bool(wide & set(held))


@dataclass(frozen=True)
class Token:
    """The claims of a verified key."""

    id: str
    principal_id: str
    models: tuple[str, ...]
    expires_at: int
