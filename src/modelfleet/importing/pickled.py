"""Pickles on their way in: looked through before anything else happens."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from modelfleet.core.scan import Findings, Verdict, scan
from modelfleet.importing.types import Attention, Refused

ENDINGS = (".pkl", ".pickle", ".joblib", ".p", ".sav", ".dill")
_PICKLE_STARTS = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def pickles(path: Path) -> Iterator[Path]:
    """The pickles of a file or folder, by name or by how they begin."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    for file in files:
        if file.suffix.lower() in ENDINGS:
            yield file
            continue
        with file.open("rb") as stream:
            if stream.read(2) in _PICKLE_STARTS:
                yield file


def check(path: Path, *, unlisted: bool) -> list[Findings]:
    """What each pickle holds. unlisted: what no list knows is accepted, for the sandbox only.

    Raises `Refused` for what is harmful or damaged, `Attention` for what nobody vouches for.
    """
    found = []
    for file in pickles(path):
        said = scan(file)
        name = file.name if path.is_file() else os.fspath(file.relative_to(path))
        if said.verdict is Verdict.HARMFUL:
            raise Refused(f"{name}: {said.reason}.")
        if said.verdict is Verdict.DAMAGED:
            raise Refused(f"{name} can't be followed: {said.reason}.")
        if said.verdict is Verdict.UNKNOWN and not unlisted:
            raise Attention(
                f"{name}: {said.reason}. If you trust where it comes from, import it with "
                "--unlisted-pickles: it then runs in the sandbox."
            )
        found.append(said)
    return found
