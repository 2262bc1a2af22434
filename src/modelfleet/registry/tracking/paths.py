"""Paths of artifacts: what clients may call them, and where runs and models keep theirs."""

from __future__ import annotations

import posixpath
import re
from urllib.parse import unquote

from modelfleet.core.errors import InvalidInput

LONGEST = 1000
"""characters"""
_DRIVE = re.compile(r"[A-Za-z]:(?:[/\\]|$)")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_OURS = re.compile(r"mlflow-artifacts:(?://[^/]*)?/?(.*)", re.DOTALL)
_VERSION = re.compile(r"versions/([0-9a-f]{32})(?:/(.*))?", re.DOTALL)
_MODEL = re.compile(r"(?:.*/)?models/(m-[0-9a-f]{32})/artifacts(?=/|$)")


def clean(text: str) -> str:
    """A safe relative path; empty is the root. Raises `InvalidInput`.

    It is decoded until nothing changes any more, so that no spelling of `..` gets through.
    """
    for _ in range(10):
        decoded = unquote(text)
        if decoded == text:
            break
        text = decoded
    else:
        raise InvalidInput("Invalid path")
    strange = "#" in text or "\\" in text or "\ufffd" in text or _CONTROL.search(text)
    outside = text.startswith("/") or ".." in text.split("/") or _DRIVE.match(text)
    if strange or outside or text.lower().startswith("file:") or len(text) > LONGEST:
        raise InvalidInput("Invalid path")
    plain = posixpath.normpath(text) if text else ""
    return "" if plain == "." else plain


def clean_file(text: str) -> str:
    """A safe path of a file. Raises `InvalidInput`."""
    if text.endswith("/"):
        raise InvalidInput("Artifact path must include a filename (cannot end with '/').")
    found = clean(text)
    if not found:
        raise InvalidInput("Invalid path")
    return found


def join(location: str, *parts: str) -> str:
    """A place below a location."""
    return "/".join((location.rstrip("/"), *parts))


def held(uri: str) -> str | None:
    """The path of a place that this server holds; None if it is somewhere else."""
    match = _OURS.fullmatch(uri)
    return None if match is None else clean(match[1])


def model_of(path: str) -> tuple[str, str] | None:
    """Id and root of the logged model that a path could belong to."""
    match = _MODEL.match(path)
    return None if match is None else (match[1], match[0])


def version_of(path: str) -> tuple[str, str] | None:
    """Id of the registered version that a path leads into, and the path in its bundle."""
    match = _VERSION.fullmatch(path)
    return None if match is None else (match[1], match[2] or "")
