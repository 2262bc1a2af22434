"""Pipelines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

from modelfleet.cli.base import client, connected, show

_PIPELINE = {
    "name": lambda p: p["name"],
    "team": lambda p: p["owner_team"],
    "steps": lambda p: [step["name"] for step in p["definition"]["steps"]],
    "revision": lambda p: p["revision"],
    "live": lambda p: p["applied_revision"] or None,
    "by": lambda p: p["created_by"],
    "problem": lambda p: p["problem"],
}
_STEP = {
    "step": lambda s: s["name"],
    "model": lambda s: s["model"],
    "calls": lambda s: s["calls"],
    "errors": lambda s: s["errors"],
    "timeouts": lambda s: s["timeouts"],
    "fallbacks": lambda s: s["fallbacks"],
    "skipped": lambda s: s["skipped"],
    "circuit": lambda s: s["breaker"],
    "last error": lambda s: s["last_error"],
}


@click.group()
def pipelines() -> None:
    """Pipelines: a typed graph of models behind one endpoint."""


def read_document(path: Path) -> Any:
    """A YAML or JSON file; JSON is YAML, too, but is read without it."""
    content = path.read_bytes()
    try:
        if path.suffix.lower() in (".yaml", ".yml"):
            return msgspec.yaml.decode(content)
        return msgspec.json.decode(content)
    except msgspec.DecodeError as error:
        raise click.BadParameter(f"{path}: {error}") from error


@pipelines.command("define")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--wait/--no-wait", default=True, help="Until it can be called.")
@connected
def define_pipeline(
    file: Path, wait: bool, home: Path | None, url: str | None, as_json: bool
) -> None:
    """Make a pipeline, or its next revision, from FILE (YAML or JSON)."""
    document = read_document(file)
    if not isinstance(document, dict):
        raise click.BadParameter(f"{file}: a pipeline is a mapping with name, steps and outputs")
    with client(home, url) as connection:
        made = connection.define_pipeline(document, wait=wait)
        show(connection.api.get(f"/v1/pipelines/{made.name}"), as_json, _PIPELINE)


@pipelines.command("list")
@connected
def list_pipelines(home: Path | None, url: str | None, as_json: bool) -> None:
    """All pipelines."""
    with client(home, url) as connection:
        show(connection.api.get("/v1/pipelines"), as_json, _PIPELINE)


@pipelines.command("show")
@click.argument("name")
@connected
def show_pipeline(name: str, home: Path | None, url: str | None, as_json: bool) -> None:
    """One pipeline, and how its steps are doing."""
    with client(home, url) as connection:
        found: Any = connection.api.get(f"/v1/pipelines/{name}")
        if as_json:
            show(found, True)
            return
        counted: Any = connection.api.get(f"/v1/pipelines/{name}/statistics")
    show(found, False, _PIPELINE)
    click.echo()
    empty = dict.fromkeys(_STEP, 0) | {"breaker": "closed", "last_error": ""}
    steps = [
        {
            **empty,
            **counted["steps"].get(step["name"], {}),
            **{k: step[k] for k in ("name", "model")},
        }
        for step in found["definition"]["steps"]
    ]
    show(steps, False, _STEP)


@pipelines.command("run")
@click.argument("name")
@click.option("--input", "inputs", required=True, type=click.File("rb"), help="JSON; - is stdin.")
@connected
def run_pipeline(name: str, inputs: Any, home: Path | None, url: str | None, as_json: bool) -> None:
    """Call a pipeline with a mapping of its inputs."""
    try:
        given = msgspec.json.decode(inputs.read())
    except msgspec.DecodeError as error:
        raise click.BadParameter(f"the input is not JSON: {error}") from error
    with client(home, url) as connection:
        wanted: Any = connection.pipeline(name).definition["inputs"]
        datatypes = {one["name"]: one["datatype"] for one in wanted}
        show(connection.predict(name, given, datatypes=datatypes), as_json)


@pipelines.command("delete")
@click.argument("name")
@connected
def delete_pipeline(name: str, home: Path | None, url: str | None, as_json: bool) -> None:
    """Stop serving a pipeline."""
    with client(home, url) as connection:
        connection.delete_pipeline(name)
