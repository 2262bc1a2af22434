"""What goes wrong between a client and its server.

ClientError
├── ApiError      the server said no; `status`, `type`, `detail` and `hint` are its problem+json
└── Unreachable   nobody answered
"""

from __future__ import annotations


class ClientError(Exception):
    """A call did not succeed."""


class ApiError(ClientError):
    """The server refused."""

    def __init__(self, status: int, body: dict[str, object]) -> None:
        self.status = status
        self.type = str(body.get("type", "about:blank"))
        self.detail = str(body.get("detail") or body.get("error") or body.get("title") or status)
        self.hint = str(body.get("hint", ""))
        self.body = body
        super().__init__(f"{self.detail} {self.hint}".strip())


class Unreachable(ClientError):
    """Nobody answered."""
