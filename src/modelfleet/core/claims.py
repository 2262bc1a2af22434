"""What a key says."""

from __future__ import annotations

from dataclasses import dataclass

ISSUER = "modelfleet"
AUDIENCE = "modelfleet"


@dataclass(frozen=True)
class Token:
    """The claims of a verified key."""

    id: str
    principal_id: str
    models: tuple[str, ...]
    expires_at: int
