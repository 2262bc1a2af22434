"""Gates: run on a registered version, or here before anything is registered; looked at."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from modelfleet.cli.base import client, connected, show
from modelfleet.cli.datasets import upload
from modelfleet.client import Client
from modelfleet.client.errors import ClientError, Unreachable
from modelfleet.client.waiting import Line as Talk
from modelfleet.client.waiting import Progress

_FILE = click.Path(path_type=Path, exists=True)
_OUT = click.Path(path_type=Path, dir_okay=False)
_NOT_YET = "It is not decided yet."
_RUN = {
    "gate": lambda g: g["gate"],
    "verdict": lambda g: g["verdict"],
    "seconds": lambda g: g["seconds"] or None,
    "when": lambda g: g["at"],
    "what was found": lambda g: g["sentence"],
}
_STATE = {
    "gate": lambda g: g["gate"] + ("" if g["blocking"] else " (does not block)"),
    "verdict": lambda g: g["run"]["verdict"] if g["run"] else g["state"],
    "seconds": lambda g: "known" if g["reused"] else g["run"] and g["run"]["seconds"],
    "what was found": lambda g: g["run"] and g["run"]["sentence"],
}


@click.group()
def gates() -> None:
    """Gates: checks that a version must pass. docs/gates.md explains each kind."""


@gates.command("run")
@click.argument("what")
@click.argument("version", required=False)
@click.option("--file", "document", type=_FILE, help="Fleet file whose gates are run.")
@click.option("--gate", "chosen", multiple=True, help="KIND or KIND='{settings: in YAML}'.")
@click.option("--champion", help="A version to compare with; none: nobody.")
@click.option("--again", is_flag=True, help="Run what is known already, too.")
@click.option("--wait/--no-wait", default=True, help="Until all gates ended, or only begin.")
@click.option("--timeout", default=3600.0, help="Seconds to wait.")
@click.option("--name", help="The model's name, if WHAT is a file or folder.")
@click.option("--kind", help="What the file holds, if that can't be told.")
@click.option("--example", type=_FILE, help="Rows of its inputs: .npy, .npz, .json or .csv.")
@click.option("--features", help="Names of the columns of its input, by commas.")
@click.option("--reference", type=_FILE, help="Training rows to compare production with.")
@click.option("--requirement", "requirements", multiple=True, help="Of its environment.")
@click.option("--python", help="Python version of its environment.")
@click.option("--source", type=_FILE, help="Python file with the class of its module.")
@click.option("--class", "class_name", help="The name of that class.")
@click.option("--junit", type=_OUT, help="Write JUnit XML.")
@click.option("--sarif", type=_OUT, help="Write SARIF (security, dependencies, signature).")
@click.option("--markdown", type=_OUT, help="Write Markdown, for pull requests.")
@connected
def run(
    what: str,
    version: str | None,
    document: Path | None,
    chosen: tuple[str, ...],
    home: Path | None,
    url: str | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Check a version: MODEL VERSION of the platform, or a model's file or folder on this machine.

    Without --file and --gate, what needs no settings is checked. Exit code 0 if all that blocks
    passes (or warns), 1 if something fails, 3 if something can't be decided (yet): approvals are
    not waited for.
    """
    name, entries = _wanted(document, chosen)
    beside = document.parent if document is not None else Path.cwd()
    if version is not None:
        with client(home, url) as connection:
            path = f"/v1/models/{what}/versions/{version}/gates"
            body = {"gates": _uploaded(connection, entries, beside), "again": given["again"]}
            found = connection.api.post(path, {**body, "champion": given["champion"]})
            shown = _wait(connection, found, given["timeout"] if given["wait"] else 0.0)
    elif Path(what).exists():
        shown = _here(Path(what), name, entries, beside, home, url, given)
    else:
        raise ClientError(
            f"{what} is no file or folder; of a registered model name a version, too."
        )
    _tell(shown, as_json, document, given)


@gates.command("list")
@click.argument("model")
@click.argument("version", default="latest")
@connected
def list_gates(model: str, version: str, home: Path | None, url: str | None, as_json: bool) -> None:
    """All verdicts on VERSION."""
    with client(home, url) as connection:
        show(connection.api.get(f"/v1/models/{model}/versions/{version}/gates"), as_json, _RUN)


@gates.command("show")
@click.argument("request")
@connected
def show_gates(request: str, home: Path | None, url: str | None, as_json: bool) -> None:
    """A request: its gates, and how far they are."""
    with client(home, url) as connection:
        found: Any = connection.api.get(f"/v1/gates/{request}")
    if as_json:
        show(found, True)
        return
    show(found["request"]["gates"], False, _STATE)
    click.echo(f"{_title(found)}: {found['verdict']}", err=True)


def _wanted(document: Path | None, chosen: Sequence[str]) -> tuple[str | None, list[object]]:
    """The model's name in the document, and the gates of both. All of them are checked first."""
    from modelfleet.fleetfile.gate_lists import parse_all

    name, entries = (None, []) if document is None else _read(document)
    for text in chosen:
        kind, given, settings = text.partition("=")
        entries.append({kind: _yaml(settings, f"--gate {kind}")} if given else kind)
    try:
        parse_all(entries)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    return name, entries


def _read(document: Path) -> tuple[str | None, list[object]]:
    found = _yaml(document.read_text("utf-8"), str(document))
    listed = found.get("gates") if isinstance(found, Mapping) else None
    if not isinstance(found, Mapping) or not isinstance(listed, list):
        raise click.UsageError(f"{document} has no list of gates.")
    described = found.get("metadata")
    name = described.get("name") if isinstance(described, Mapping) else None
    return (str(name) if name else None), list(listed)


def _yaml(text: str, where: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{where}: {error}") from error


def _uploaded(connection: Client, entries: Sequence[object], beside: Path) -> list[object]:
    """Entries with local files sent, and named by their digests."""
    from modelfleet.fleetfile.gate_lists import local_files
    from modelfleet.fleetfile.gates import parse

    found: list[object] = []
    for entry in entries:
        kind, spec = parse(entry)
        files = local_files(spec)
        told = spec.model_dump(mode="json", exclude_defaults=True)
        for field, name in files.items():
            path = beside / name
            if not path.is_file():
                raise ClientError(f"{kind}: there is no file {path}.")
            told[field] = f"{Path(name).name}@sha256:{upload(connection, path)}"
        found.append({kind: told})
    return found


def _wait(connection: Client, found: Any, seconds: float) -> Any:
    end = time.monotonic() + seconds
    request = found["request"]
    with Talk(f"{request['model']}@{request['version']}") as line:
        while _runs(found) and time.monotonic() < end:
            line.say(_progress(found["request"]["gates"]))
            time.sleep(0.25)
            found = connection.api.get(f"/v1/gates/{request['id']}")
    if seconds and not found["ended"]:
        left = "wait for people" if not _runs(found) else f"did not end within {seconds:g} s"
        click.echo(f"Some gates {left}: modelfleet gates show {request['id']}", err=True)
    return found


def _runs(found: Any) -> bool:
    """Whether something is left to wait for; people may take days."""
    return any(one["state"] in ("queued", "running") for one in found["request"]["gates"])


def _progress(states: Sequence[Any]) -> str:
    done = sum(one["run"] is not None for one in states)
    busy = next((one for one in states if one["run"] is None and one["progress"]), None)
    text = f"{done} of {len(states)} gates"
    if busy is not None:
        text += f", {busy['gate']}: {msgspec.convert(busy['progress'], Progress)}"
    return text


def _here(
    path: Path,
    name: str | None,
    entries: Sequence[object],
    beside: Path,
    home: Path | None,
    url: str | None,
    given: Mapping[str, Any],
) -> Any:
    """The same answer as the API gives, from gates that ran on this machine."""
    try:
        from modelfleet.views.local_gates import check_here
    except ImportError as error:
        raise ClientError(
            f"Gates on this machine need more packages ({error.name}): "
            "pip install 'modelfleet[standard]'"
        ) from error
    connection: Client | None = None
    try:
        connection = client(home, url)
        connection.api.get("/v1/models", limit=1)
    except Unreachable as error:
        click.echo(f"No platform is asked: {error}", err=True)
        connection = None
    model = given["name"] or name or path.stem
    with Talk(model) as line:
        return check_here(path, model, entries, beside, connection, line.say, given)


def _tell(shown: Any, as_json: bool, document: Path | None, given: Mapping[str, Any]) -> None:
    from modelfleet.client import gate_reports as reports

    states = shown["request"]["gates"]
    if as_json:
        show(shown, True)
    else:
        show(states, False, _STATE)
        click.echo(f"{_title(shown)}: {shown['verdict']}", err=True)
    if not given["wait"]:
        return
    report = _report(shown)
    where = document.as_posix() if document is not None else ""
    if given["junit"] is not None:
        given["junit"].write_bytes(reports.junit(report))
    if given["sarif"] is not None:
        given["sarif"].write_bytes(reports.sarif(report, where))
    if given["markdown"] is not None:
        given["markdown"].write_text(reports.markdown(report), "utf-8")
    sys.exit(report.exit_code)


def _title(shown: Any) -> str:
    request = shown["request"]
    against = f" against {request['champion']}" if request["champion"] else ""
    return f"{request['model']}@{request['version']}{against} (request {request['id'] or 'here'})"


def _report(shown: Any) -> Any:
    from modelfleet.client.gate_reports import Line, Report

    request = shown["request"]
    lines = tuple(
        Line(
            one["gate"],
            one["kind"],
            one["blocking"],
            one["run"]["verdict"],
            one["run"]["sentence"],
            one["run"]["seconds"],
            one["run"]["evidence"],
        )
        if one["run"]
        else Line(one["gate"], one["kind"], one["blocking"], "inconclusive", _NOT_YET)
        for one in request["gates"]
    )
    return Report(request["model"], request["version"], request["champion"], lines)
