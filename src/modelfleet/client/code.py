"""What a version remembers of the code that trained it: where git stood, and the files given."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from modelfleet.client.errors import ClientError
from modelfleet.client.uploads import digest_of

_SKIPPED = frozenset({"__pycache__", ".git", ".venv", "venv", "node_modules"})
_LIMIT = 10_000
"""files of a snapshot"""


def snapshot_of(paths: Sequence[Path | str]) -> tuple[dict[str, Any], dict[str, Path]]:
    """The snapshot, and its files by sha256.

    Commit, branch and dirty flag are those of the repository of the first path, or of the working
    folder; nothing of its remotes is told. Paths are kept relative to the root of the repository,
    or to the working folder. Raises `ClientError` for a path that is not there or lies outside.
    """
    given = [Path(path).resolve() for path in paths]
    here = given[0] if given else Path.cwd()
    folder = here if here.is_dir() else here.parent
    root = Path(_git(folder, "rev-parse", "--show-toplevel") or os.getcwd()).resolve()
    found = _repository(folder)
    rows, files = [], {}
    for path in _files(given):
        try:
            name = path.relative_to(root).as_posix()
        except ValueError:
            raise ClientError(f"{path} is not below {root}, where the code is.") from None
        sha256, size = digest_of(path)
        rows.append({"path": name, "sha256": sha256, "size": size})
        files[sha256] = path
    if len(rows) > _LIMIT:
        raise ClientError(f"The code has {len(rows)} files; {_LIMIT} are too many already.")
    return (found | {"files": rows} if rows else found), files


def _repository(folder: Path) -> dict[str, Any]:
    commit = _git(folder, "rev-parse", "HEAD")
    if not commit:
        return {}
    return {
        "commit": commit,
        "branch": _git(folder, "rev-parse", "--abbrev-ref", "HEAD"),
        "dirty": bool(_git(folder, "status", "--porcelain", "--untracked-files=no")),
    }


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    """Each file once; caches, environments, hidden folders and links are left out."""
    seen: set[Path] = set()
    for path in paths:
        if not path.exists():
            raise ClientError(f"There is no {path}.")
        for one in [path] if path.is_file() else _below(path):
            if one not in seen:
                seen.add(one)
                yield one


def _below(folder: Path) -> Iterator[Path]:
    for here, folders, names in os.walk(folder):
        folders[:] = sorted(f for f in folders if f not in _SKIPPED and not f.startswith("."))
        for name in sorted(names):
            path = Path(here) / name
            if path.is_file() and not path.is_symlink() and path.suffix != ".pyc":
                yield path


def _git(folder: Path, *arguments: str) -> str:
    """git's answer; empty if there is no git or no repository."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
