"""Large contents: read once to be hashed, sent in parts, gone on with where a break left them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, BinaryIO

from modelfleet.client.errors import ApiError, ClientError
from modelfleet.client.transport import Transport
from modelfleet.client.waiting import Line

PART = 16 * 2**20
"""bytes of one request; what is larger goes in parts"""
_TRIES = 5
"""breaks of one part"""


def digest_of(content: bytes | Path) -> tuple[str, int]:
    """sha256 and size in bytes."""
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest(), len(content)
    with content.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest(), content.stat().st_size


def upload_file(api: Transport, sha256: str, path: Path) -> None:
    """Send a file; what the server holds of it already is not sent again."""
    size, broken = path.stat().st_size, 0
    state: Any = api.get(f"/v1/uploads/{sha256}")
    with path.open("rb") as stream, Line(path.name) as line:
        while not state["complete"]:
            line.say(f"{100 * state['offset'] // size} % of {size / 2**20:.0f} MB uploaded")
            try:
                state = _part(api, sha256, stream, state["offset"], size)
                broken = 0
            except (ApiError, ClientError) as error:
                refused = isinstance(error, ApiError) and error.status not in (409, 503)
                broken += 1
                if refused or broken == _TRIES:
                    raise
                state = api.get(f"/v1/uploads/{sha256}")


def _part(api: Transport, sha256: str, stream: BinaryIO, offset: int, size: int) -> Any:
    stream.seek(offset)
    query = {"offset": offset, "size": size}
    part = stream.read(PART)
    return api.call("PATCH", f"/v1/uploads/{sha256}", query=query, content=part).json()
