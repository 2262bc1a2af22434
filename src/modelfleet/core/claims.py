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


def scope_claims(scopes: Sequence[str]) -> dict[str, object]:
    """Scopes as the gateway reads them.

    `named` is a mere list of names: `,a,b,`. Else `scope` is `*`, or `,a:infer,b,` with actions.
    """
    if not scopes:
        return {}
    if ALL in scopes:
        return {"scope": ALL}
    entries = f",{','.join(scopes)},"
    return {"scope" if ":" in entries else "named": entries}


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
