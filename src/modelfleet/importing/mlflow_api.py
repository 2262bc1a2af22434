"""Calls to a server that speaks MLflow's REST protocol: another one, or ours."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from modelfleet.client.errors import ApiError, ClientError
from modelfleet.client.transport import Transport

_SMALL = 2**20
"""bytes: what is larger is streamed"""
_API = "/api/2.0/mlflow"
_FILES = "/api/2.0/mlflow-artifacts/artifacts"


class MlflowApi:
    """token: a bearer's; user and password: basic authentication; none of them: none."""

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        user: str | None = None,
        password: str | None = None,
        timeout: float = 60.0,
    ) -> None:
        self.url = url.rstrip("/")
        self._transport = Transport(self.url, token or "", timeout)
        self._headers: dict[str, str] = {}
        if user is not None:
            joined = base64.b64encode(f"{user}:{password or ''}".encode()).decode()
            self._headers["authorization"] = f"Basic {joined}"
        elif not token:
            self._headers["authorization"] = ""

    def get(self, address: str, /, **query: str | int | None) -> dict[str, Any]:
        found = self._transport.call(
            "GET", self._path(address), query=query, headers=self._headers
        ).json()
        return found if isinstance(found, dict) else {}

    def post(self, path: str, body: Mapping[str, object]) -> dict[str, Any]:
        found = self._transport.call("POST", self._path(path), body=body, headers=self._headers)
        decoded = found.json() if found.content else {}
        return decoded if isinstance(decoded, dict) else {}

    def patch(self, path: str, body: Mapping[str, object]) -> None:
        self._transport.call("PATCH", self._path(path), body=body, headers=self._headers)

    def _path(self, path: str) -> str:
        return path if path.startswith("/") else f"{_API}/{path}"

    def pages(self, path: str, key: str, /, **query: str | int | None) -> Iterator[dict[str, Any]]:
        """All things that a GET search lists, page by page."""
        token: str | None = None
        while True:
            page = self.get(path, **query, page_token=token)
            yield from page.get(key, [])
            token = page.get("next_page_token") or None
            if token is None:
                return

    def posted_pages(
        self, path: str, key: str, body: Mapping[str, object]
    ) -> Iterator[dict[str, Any]]:
        """The same of a search by POST."""
        token = ""
        while True:
            page = self.post(path, {**body, **({"page_token": token} if token else {})})
            yield from page.get(key, [])
            token = page.get("next_page_token") or ""
            if not token:
                return

    # Files behind the server's artifact proxy --------------------------------------------------

    def list_files(self, root: str) -> Iterator[tuple[str, int]]:
        """Paths below `root` (as the proxy names it), with sizes in bytes."""
        waiting = [""]
        while waiting:
            folder = waiting.pop()
            path = f"{root}/{folder}".rstrip("/")
            for one in self.get(_FILES, path=path).get("files", []):
                name = str(one["path"]).rsplit("/", 1)[-1]
                if name in ("", ".", "..") or "\0" in name:
                    raise ClientError(f"The server lists a file called {name!r}.")
                below = f"{folder}/{name}".lstrip("/")
                if one.get("is_dir"):
                    waiting.append(below)
                else:
                    yield below, int(one.get("file_size") or 0)

    def fetch(self, root: str, path: str, into: Path) -> None:
        """One file."""
        self._save(f"{_FILES}/{quote(f'{root}/{path}')}", {}, into)

    def fetch_of_run(self, run_id: str, path: str, into: Path) -> None:
        """One file of a run, whatever the server's store is."""
        self._save("/get-artifact", {"run_uuid": run_id, "path": path}, into)

    def _save(self, address: str, query: Mapping[str, str], into: Path) -> None:
        into.parent.mkdir(parents=True, exist_ok=True)
        with into.open("wb") as file:
            for part in self._transport.stream(address, query=query, headers=self._headers):
                file.write(part)

    def list_of_run(self, run_id: str) -> Iterator[tuple[str, int]]:
        """Files of a run, with sizes in bytes."""
        waiting: list[str | None] = [None]
        while waiting:
            page = self.get("artifacts/list", run_id=run_id, path=waiting.pop())
            for one in page.get("files", []):
                if ".." in str(one["path"]).split("/") or str(one["path"]).startswith("/"):
                    raise ClientError(f"The server lists a file called {one['path']!r}.")
                if one.get("is_dir"):
                    waiting.append(str(one["path"]))
                else:
                    yield str(one["path"]), int(one.get("file_size") or 0)

    def put_file(self, root: str, path: str, file: Path) -> None:
        address = f"{_FILES}/{quote(f'{root}/{path}')}"
        size = file.stat().st_size
        if size <= _SMALL:
            content = file.read_bytes()
            self._transport.call("PUT", address, content=content, headers=self._headers)
            return
        said = {**self._headers, "content-length": str(size)}
        self._transport.call("PUT", address, content=_parts(file), headers=said)

    def close(self) -> None:
        self._transport.close()


def _parts(file: Path) -> Iterator[bytes]:
    with file.open("rb") as stream:
        while part := stream.read(_SMALL):
            yield part


def code_of(error: ApiError) -> str:
    """MLflow's `error_code`."""
    return str(error.body.get("error_code", ""))


def artifact_root(uri: str) -> str | None:
    """What the proxy calls a place with this `mlflow-artifacts:` address; None for other stores."""
    if not uri.startswith("mlflow-artifacts:"):
        return None
    rest = uri.removeprefix("mlflow-artifacts:")
    if rest.startswith("//"):
        rest = "/" + rest[2:].partition("/")[2]
    return rest.strip("/")
