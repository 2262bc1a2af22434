"""Page tokens: where a search goes on, bound to what was searched."""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Sequence

from modelfleet.compat.mlflow.errors import invalid
from modelfleet.compat.mlflow.routing import Call, wrong_type


def _bound(query: Sequence[object]) -> int:
    return zlib.crc32(json.dumps(query, default=str).encode())


def offset_of(token: str | None, query: Sequence[object]) -> int:
    """The offset in a token. A token of another search is refused."""
    if not token:
        return 0
    try:
        found = json.loads(base64.b64decode(token, validate=True))
    except (binascii.Error, UnicodeDecodeError) as error:
        raise invalid("Invalid page token, could not base64-decode") from error
    except ValueError as error:
        raise invalid(f"Invalid page token, parsed value={token[:100]}") from error
    offset = found.get("offset") if isinstance(found, dict) else None
    if not isinstance(offset, int) or isinstance(offset, bool) or offset < 0:
        raise invalid(f"Invalid page token, parsed value={token[:100]}")
    if found.get("search") != _bound(query):
        raise invalid("Invalid page token: it belongs to another search.")
    return offset


def token_of(offset: int, query: Sequence[object]) -> str:
    found = json.dumps({"offset": offset, "search": _bound(query)})
    return base64.b64encode(found.encode()).decode()


def max_results(call: Call, default: int, highest: int) -> int:
    found = call.integer("max_results", default)
    if found > highest:
        raise wrong_type("max_results", call.parameters["max_results"])
    if found < 0:
        raise invalid(
            f"Invalid value {found} for parameter 'max_results' supplied: It must be at least 0"
        )
    return found


def start(call: Call) -> int:
    """Where this call's search goes on."""
    return offset_of(call.optional("page_token"), _asked(call))


def following(call: Call, offset: int) -> str:
    """The token of the page that begins at `offset`, of this call's search."""
    return token_of(offset, _asked(call))


def _asked(call: Call) -> Sequence[object]:
    route = call.request.url.path.rpartition("/mlflow/")[2]
    paging = ("page_token", "max_results")
    asked = sorted((k, v) for k, v in call.parameters.items() if k not in paging)
    return (call.namespace, route, asked)
