"""Routes of the protocol: who is calling, in which namespace, with which parameters."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from modelfleet.compat.mlflow.errors import MlflowError, invalid
from modelfleet.core.authorization import Principal
from modelfleet.core.errors import Unauthenticated
from modelfleet.registry import RegistryService
from modelfleet.registry.tracking.service import TrackingService
from modelfleet.wiring import Fleet

API = ("/api/2.0/mlflow/", "/ajax-api/2.0/mlflow/")
MAX_BODY = 64 * 2**20
"""bytes of a JSON body"""
_NUL = re.compile(rb"\x00|(?<!\\)(?:\\\\)*\\u0000")
_T = TypeVar("_T")


@dataclass(frozen=True)
class Call:
    """One request, parsed."""

    fleet: Fleet
    caller: Principal
    namespace: str
    registry: RegistryService
    tracking: TrackingService
    parameters: Mapping[str, Any]
    """the JSON body, or the query: a list where a name occurs more than once"""
    request: Request
    path: Mapping[str, str] = field(default_factory=dict)
    """named parts of the address"""

    def text(self, *names: str) -> str:
        """A required string, by the first of its names that is there."""
        found = self.optional(*names)
        if found is None or found == "":
            raise missing_parameter(names[0])
        return found

    def optional(self, *names: str) -> str | None:
        for name in names:
            found = self.parameters.get(name)
            if found is not None:
                if not isinstance(found, str):
                    raise wrong_type(names[0], found)
                return found
        return None

    def integer(self, name: str, default: int | None = None) -> int:
        """A number, also as the decimal string that protobuf's JSON makes of 64 bits."""
        found = self.parameters.get(name)
        if found is None:
            if default is None:
                raise missing_parameter(name)
            return default
        try:
            if isinstance(found, bool) or (isinstance(found, float) and not found.is_integer()):
                raise ValueError
            return int(found)
        except (TypeError, ValueError) as error:
            raise wrong_type(name, found) from error

    def flag(self, name: str) -> bool:
        return self.parameters.get(name) in (True, "true", "True", "1")

    def texts(self, name: str) -> list[str]:
        found = self.parameters.get(name)
        if found is None:
            return []
        values = found if isinstance(found, list) else [found]
        if not all(isinstance(value, str) for value in values):
            raise wrong_type(name, found)
        return values

    def convert(self, name: str, kind: type[_T]) -> _T | None:
        """A nested parameter as a struct."""
        found = self.parameters.get(name)
        if found is None:
            return None
        try:
            return msgspec.convert(found, kind, strict=False)
        except msgspec.ValidationError as error:
            raise invalid(f"Invalid value for parameter '{name}': {error}") from error


def missing_parameter(name: str) -> MlflowError:
    return invalid(
        f"Missing value for required parameter '{name}'. See the API docs for more information "
        "about request parameters."
    )


def wrong_type(name: str, value: object) -> MlflowError:
    shown = msgspec.json.encode(value).decode()[:200]
    return invalid(
        f"Invalid value {shown} for parameter '{name}' supplied:  Hint: Value was of type "
        f"'{type(value).__name__}'. See the API docs for more information about request parameters."
    )


Handler = Callable[[Call], Any]
"""Runs in a thread; answers what becomes the JSON body, or a whole response."""
StreamHandler = Callable[[Call], Awaitable[Response]]


@dataclass(frozen=True)
class Route:
    method: str
    pattern: re.Pattern[str]
    handler: Handler | StreamHandler
    streams: bool
    """takes the body itself, in the event loop"""
    public: bool


ROUTES: dict[tuple[str, str], Route] = {}
"""without names in their address"""
PATTERNS: list[Route] = []


def route(
    methods: str, *paths: str, streams: bool = False, public: bool = False
) -> Callable[[Any], Any]:
    """Declare a handler. Paths without a leading slash are below `/api/2.0/mlflow/`.

    `{name}` stands for one segment, `{name:path}` for the rest. Everything in `/api` has its twin
    in `/ajax-api`.
    """

    def declare(handler: Any) -> Any:
        for path in paths:
            full = path if path.startswith("/") else API[0] + path
            for place in {full, full.replace("/api/", "/ajax-api/", 1)}:
                for method in methods.split("+"):
                    _add(Route(method, _pattern(place), handler, streams, public), place)
        return handler

    return declare


def _pattern(path: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)(:path)?\}", path)
    text = ""
    for index in range(0, len(parts), 3):
        text += re.escape(parts[index])
        if index + 1 < len(parts):
            text += f"(?P<{parts[index + 1]}>{'.+' if parts[index + 2] else '[^/]+'})"
    return re.compile(text, re.DOTALL)


def _add(made: Route, place: str) -> None:
    if "{" in place:
        PATTERNS.append(made)
    else:
        ROUTES[(made.method, place)] = made


def find(method: str, path: str) -> tuple[Route, dict[str, str]]:
    """The route of an address. Raises ENDPOINT_NOT_FOUND."""
    known = ROUTES.get((method, path))
    if known is not None:
        return known, {}
    for candidate in PATTERNS:
        match = candidate.pattern.fullmatch(path)
        if match is not None and candidate.method == method:
            return candidate, match.groupdict()
    raise MlflowError("ENDPOINT_NOT_FOUND", f"modelfleet does not serve {method} {path[:200]}.")


def credentials(request: Request) -> str:
    """The key: as a bearer token, or as the password of basic authentication."""
    header = request.headers.get("authorization", "")
    scheme, _, rest = header.partition(" ")
    if scheme.lower() == "bearer" and rest.strip():
        return rest.strip()
    if scheme.lower() == "basic":
        try:
            _, _, password = base64.b64decode(rest, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError) as error:
            raise Unauthenticated("The basic credentials can't be read.") from error
        return password
    raise Unauthenticated(hint="Set MLFLOW_TRACKING_TOKEN to a modelfleet key.")


async def parameters(request: Request) -> dict[str, Any]:
    """Of the query for GET, of the JSON body otherwise."""
    if request.method == "GET":
        found: dict[str, Any] = {}
        for name, value in request.query_params.multi_items():
            if "\0" in value and name != "path":  # of which others say what is wrong
                raise wrong_type(name, value)
            here = found.get(name)
            if here is None:
                found[name] = value
            else:
                found[name] = [*(here if isinstance(here, list) else [here]), value]
        return found
    kind = request.headers.get("content-type", "").split(";")[0].strip()
    gathered = bytearray()
    async for chunk in request.stream():
        gathered += chunk
        if len(gathered) > MAX_BODY:
            raise invalid(f"The body is larger than {MAX_BODY} bytes.")
    if not gathered:
        return {}
    if kind not in ("application/json", ""):
        raise invalid("Bad Request. Content-Type must be one of ['application/json'].")
    decoded = _decode(bytes(gathered))
    if not isinstance(decoded, dict):
        raise invalid("The body must be a JSON object.")
    return decoded


def _decode(body: bytes) -> Any:
    """Also with the numbers that JSON doesn't have and Python writes (NaN, Infinity)."""
    if _NUL.search(body):
        raise invalid("The body holds a NUL character.")
    try:
        try:
            return msgspec.json.decode(body)
        except msgspec.DecodeError:
            if b"NaN" not in body and b"Infinity" not in body:
                raise
            decoded = json.loads(body)
            msgspec.json.encode(decoded)  # refuses half characters
            return decoded
    except (ValueError, RecursionError) as error:
        raise invalid(f"The body is not valid JSON: {error}") from error
