"""Reproducing a version, and the code that trained it."""

from __future__ import annotations

import sys
import time
from pathlib import Path, PurePosixPath
from typing import Any

import click
import msgspec

from modelfleet.cli.base import client, connected, show
from modelfleet.client.errors import ClientError
from modelfleet.client.waiting import Line, Progress

_REBUILD = {
    "rebuild": lambda r: r["id"],
    "version": lambda r: f"{r['model']}@{r['version']}",
    "state": lambda r: r["state"],
    "found": lambda r: r["result"] and r["result"]["sentence"],
    "lock": lambda r: _evidence(r).get("lock"),
    "python": lambda r: _evidence(r).get("python"),
    "packages": lambda r: len(_evidence(r).get("packages", ())) or None,
    "changed": lambda r: _evidence(r).get("changed_packages"),
    "seconds to build": lambda r: _evidence(r).get("build_s"),
    "seconds to load": lambda r: _evidence(r).get("load_s"),
    "seconds of the call": lambda r: _evidence(r).get("call_s"),
}
_FILE = {
    "path": lambda f: f["path"],
    "bytes": lambda f: f["size"],
    "sha256": lambda f: f["sha256"][:12],
}


def _evidence(found: Any) -> dict[str, Any]:
    return dict(found["result"]["evidence"]) if found["result"] else {}


@click.command()
@click.argument("model")
@click.argument("version")
@click.option("--wait/--no-wait", default=True, help="Until it was compared, or only begin.")
@click.option("--timeout", default=1800.0, help="Seconds to wait.")
@connected
def rebuild(
    model: str,
    version: str,
    wait: bool,
    timeout: float,
    home: Path | None,
    url: str | None,
    as_json: bool,
) -> None:
    """Make VERSION's environment again from its lock, and compare its golden answers.

    The environment in use is not touched. Exit code 1 if the answers differ, or none came.
    """
    with client(home, url) as connection:
        path = f"/v1/models/{model}/versions/{version}/rebuilds"
        found: Any = connection.api.post(path)
        end = time.monotonic() + timeout
        with Line(f"{model}@{found['version']}") as line:
            while wait and found["result"] is None:
                if time.monotonic() > end:
                    raise ClientError(f"It is not rebuilt after {timeout:g} s; it goes on.")
                said = found["progress"]
                line.say(str(msgspec.convert(said, Progress)) if said else found["state"])
                time.sleep(0.25)
                found = connection.api.get(f"{path}/{found['id']}")
    show(found, as_json, _REBUILD)
    if found["result"] is not None and found["state"] != "equal":
        sys.exit(1)


@click.command()
@click.argument("model")
@click.argument("version", default="latest")
@click.option("--out", type=click.Path(path_type=Path), help="Write the files below this folder.")
@connected
def code(
    model: str,
    version: str,
    out: Path | None,
    home: Path | None,
    url: str | None,
    as_json: bool,
) -> None:
    """The code that trained VERSION: where git stood, and the files that were kept."""
    with client(home, url) as connection:
        path = f"/v1/models/{model}/versions/{version}/code"
        found: Any = connection.api.get(path)
        files = found.get("files", [])
        if out is not None:
            for entry in files:
                _write(out, entry["path"], connection.api.stream(f"{path}/{entry['path']}"))
    if as_json:
        show(found, True)
        return
    if not found:
        click.echo("No code was recorded.", err=True)
        return
    rest = {key: (lambda f, key=key: str(f[key])) for key in found if key != "files"}
    if rest:
        show(found, False, rest)
    if files:
        show(files, False, _FILE)
    if out is not None:
        click.echo(f"{len(files)} files written below {out}.", err=True)


def _write(out: Path, name: str, chunks: Any) -> None:
    """A file below `out`, never beside it."""
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts or not pure.parts:
        raise ClientError(f"The server named the path {name!r}, which leaves the folder.")
    target = out.joinpath(*pure.parts)
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as file:
        for chunk in chunks:
            file.write(chunk)
