"""Calls over HTTP: where the server is, the key, timeouts, retries with jitter."""

from __future__ import annotations

import json
import os
import random
import ssl
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import httpx2 as httpx
import msgspec

from modelfleet.client.errors import ApiError, Unreachable

RETRIES = 4
_IDEMPOTENT = frozenset({"GET", "HEAD", "PUT", "DELETE"})

Json = dict[str, object]
Query = Mapping[str, str | int | float | None]


def home_folder(home: Path | None = None) -> Path:
    named = os.environ.get("MODELFLEET_HOME")
    return home or (Path(named) if named else Path.home() / ".modelfleet")


def ports_of(home: Path) -> dict[str, int]:
    """Ports of a running modelfleet on this machine. Raises `Unreachable`."""
    try:
        return msgspec.json.decode((home / "run" / "ports.json").read_bytes(), type=dict[str, int])
    except (FileNotFoundError, msgspec.DecodeError) as error:
        raise Unreachable(
            f"modelfleet does not run in {home}. Start it (modelfleet up) or set MODELFLEET_URL."
        ) from error


def key_of(home: Path) -> str:
    named = os.environ.get("MODELFLEET_KEY")
    if named:
        return named
    try:
        return (home / "admin.key").read_text().strip()
    except (FileNotFoundError, PermissionError) as error:
        raise Unreachable(
            f"There is no key: set MODELFLEET_KEY, or use a home whose admin.key you may read "
            f"({home / 'admin.key'})."
        ) from error


def _trusted() -> ssl.SSLContext | bool:
    """Whom to trust: public authorities, or those of the file that MODELFLEET_CA names."""
    named = os.environ.get("MODELFLEET_CA")
    if not named:
        return True
    try:
        return ssl.create_default_context(cafile=named)
    except (OSError, ssl.SSLError) as error:
        raise Unreachable(f"MODELFLEET_CA: {named} can't be used: {error}") from error


class Transport:
    """One base address with a key. Thread-safe."""

    def __init__(self, url: str, key: str, timeout: float = 30.0) -> None:
        self.url = url.rstrip("/")
        self.key = key
        self._http = httpx.Client(
            base_url=self.url,
            headers={"authorization": f"Bearer {key}"},
            timeout=timeout,
            verify=_trusted(),
        )

    def close(self) -> None:
        self._http.close()

    def call(
        self,
        method: str,
        path: str,
        *,
        body: object | None = None,
        query: Query | None = None,
        content: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """One call; idempotent ones are repeated when nobody answers or with a 503.

        Raises `ApiError` for any status of 400 and above, `Unreachable` if nobody answers.
        """
        sent = dict(headers or {})
        if body is not None:
            content = msgspec.json.encode(body)
            sent["content-type"] = "application/json"
        repeatable = method in _IDEMPOTENT and (content is None or isinstance(content, bytes))
        parameters = {k: v for k, v in (query or {}).items() if v is not None}
        for attempt in range(RETRIES + 1):
            last = attempt == RETRIES or not repeatable
            try:
                response = self._http.request(
                    method, path, params=parameters or None, content=content, headers=sent
                )
            except httpx.ConnectError as error:
                if attempt == RETRIES:
                    raise Unreachable(f"{self.url} does not answer: {error}") from error
            except httpx.TransportError as error:
                if last:
                    raise Unreachable(f"{self.url} does not answer: {error}") from error
            else:
                if response.status_code < 400:
                    return response
                if response.status_code != 503 or last:
                    raise ApiError(response.status_code, _body(response))
            time.sleep(random.uniform(0.5, 1.0) * 0.1 * 2**attempt)
        raise AssertionError("unreachable")

    def stream(
        self, path: str, *, query: Query | None = None, headers: Mapping[str, str] | None = None
    ) -> Iterator[bytes]:
        """The body of an answer as it comes."""
        given = {k: v for k, v in (query or {}).items() if v is not None} or None
        try:
            with self._http.stream("GET", path, params=given, headers=headers) as response:
                if response.status_code >= 400:
                    response.read()
                    raise ApiError(response.status_code, _body(response))
                yield from response.iter_bytes()
        except httpx.TransportError as error:
            raise Unreachable(f"{self.url} does not answer: {error}") from error

    def get(self, path: str, **query: str | int | float | None) -> object:
        return self.call("GET", path, query=query).json()

    def post(self, path: str, body: object | None = None) -> object:
        return _decoded(self.call("POST", path, body={} if body is None else body))

    def put(self, path: str, body: object) -> object:
        return _decoded(self.call("PUT", path, body=body))

    def patch(self, path: str, body: object) -> object:
        return _decoded(self.call("PATCH", path, body=body))

    def delete(self, path: str, body: object | None = None) -> object:
        return _decoded(self.call("DELETE", path, body=body))


def _decoded(response: httpx.Response) -> object:
    return response.json() if response.content else None


def _body(response: httpx.Response) -> Json:
    try:
        found = response.json()
    except json.JSONDecodeError:
        found = {"detail": response.text[:500] or response.reason_phrase}
    return found if isinstance(found, dict) else {"detail": str(found)}
