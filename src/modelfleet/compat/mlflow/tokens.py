"""Page tokens: where the next page of one search begins. Clients don't look inside."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

from modelfleet.compat.mlflow.errors import invalid
from modelfleet.compat.mlflow.routing import Call

_PAGING = ("page_token", "max_results")


def start(call: Call) -> int:
    """The offset that a call's `page_token` stands for. Refuses tokens of other searches."""
    token = call.optional("page_token")
    if not token:
        return 0
    try:
        decoded = base64.b64decode(token, validate=True)
    except (binascii.Error, ValueError) as error:
        raise invalid("Invalid page token, could not base64-decode") from error
    try:
        found = msgspec.json.decode(decoded)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise invalid(f"Invalid page token, decoded value={decoded[:100]!r}") from error
    offset = found.get("offset") if isinstance(found, dict) else None
    if not isinstance(offset, int) or isinstance(offset, bool) or not 0 < offset < 2**53:
        raise invalid(f"Invalid page token, parsed value={found!r:.100}")
    if found.get("of") != _search(call.namespace, call.request.url.path, call.parameters):
        raise invalid("Invalid page token: it belongs to another search.")
    return offset


def following(call: Call, offset: int) -> str:
    """The token of the page that begins at `offset`."""
    search = _search(call.namespace, call.request.url.path, call.parameters)
    return base64.b64encode(msgspec.json.encode({"offset": offset, "of": search})).decode()


def _search(namespace: str, path: str, parameters: Mapping[str, Any]) -> str:
    asked = {key: value for key, value in parameters.items() if key not in _PAGING}
    route = path.rsplit("/mlflow/", 1)[-1]
    text = msgspec.json.encode([namespace, route, asked], order="deterministic")
    return hashlib.sha256(text).hexdigest()[:16]
