"""The packaged style sheet, module and icon. Their addresses carry a digest, so they never age."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import Response

from modelfleet.core.errors import NotFound
from modelfleet.core.ids import digest
from modelfleet.web.base import permits

_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
router = APIRouter()


@dataclass(frozen=True)
class Asset:
    content: bytes
    compressed: bytes
    digest: str
    media_type: str


def _load() -> dict[str, Asset]:
    found = {}
    for path in sorted((Path(__file__).parent / "static").iterdir()):
        if path.suffix in _TYPES:
            content = path.read_bytes()
            compressed = gzip.compress(content, 9, mtime=0)
            found[path.name] = Asset(content, compressed, digest(content)[:12], _TYPES[path.suffix])
    return found


ASSETS = _load()


def path(name: str) -> str:
    """The address of an asset, for templates."""
    return f"/static/{ASSETS[name].digest}/{name}"


@router.get("/static/{version}/{name}", **permits(None))
def static(request: Request, version: str, name: str) -> Response:
    """Only names that were packaged; the digest in the address is for caches."""
    asset = ASSETS.get(name)
    if asset is None or version != asset.digest:
        raise NotFound(f"There is no file {name}.")
    headers = {
        "cache-control": "public, max-age=31536000, immutable",
        "x-content-type-options": "nosniff",
        "vary": "accept-encoding",
    }
    content = asset.content
    if "gzip" in request.headers.get("accept-encoding", ""):
        content, headers["content-encoding"] = asset.compressed, "gzip"
    return Response(content, 200, headers, media_type=asset.media_type)
