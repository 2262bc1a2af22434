"""Models, versions, aliases."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import msgspec

from modelfleet.cli.base import client, connected, show
from modelfleet.client.waiting import Progress

_ISOLATION = click.Choice(["shared", "team", "model"])
_ISOLATION_HELP = "With whom it may share a process: anybody, its team's models, nobody."
_MODEL = {
    "name": lambda m: m["name"],
    "team": lambda m: m["owner_team"],
    "function": lambda m: m["business_function"],
    "criticality": lambda m: m["criticality"],
    "latest": lambda m: m["latest_version"],
    "versions": lambda m: m["versions"],
    "tags": lambda m: m["tags"],
}
_VERSION = {
    "version": lambda v: v["version"],
    "number": lambda v: v["sequence"],
    "status": lambda v: v["status"],
    "serves as": lambda v: v["serving"],
    "aliases": lambda v: v["aliases"],
    "metrics": lambda v: v["metrics"],
    "created": lambda v: v["created_at"],
    "by": lambda v: v["created_by"],
}

EDGE = {
    "from": lambda e: f"{e['source']['kind']} {e['source']['name']}",
    "relation": lambda e: e["relation"],
    "to": lambda e: f"{e['destination']['kind']} {e['destination']['name']}",
}


def _pairs(_ctx: click.Context, _parameter: click.Parameter, given: tuple[str, ...]) -> Any:
    for one in given:
        if "=" not in one:
            raise click.BadParameter(f"{one!r} is not KEY=VALUE")
    return dict(one.split("=", 1) for one in given)


@click.group()
def models() -> None:
    """Models: named, owned units of prediction."""


@models.command("list")
@click.option("--team", help="Only those of this team.")
@click.option("--text", help="Only names that contain this.")
@connected
def list_models(
    team: str | None, text: str | None, home: Path | None, url: str | None, as_json: bool
) -> None:
    """All models, by name."""
    with client(home, url) as connection:
        show(connection.api.get("/v1/models", team=team, text=text, limit=1000), as_json, _MODEL)


@models.command("show")
@click.argument("name")
@connected
def show_model(name: str, home: Path | None, url: str | None, as_json: bool) -> None:
    """One model."""
    with client(home, url) as connection:
        show(connection.api.get(f"/v1/models/{name}"), as_json, _MODEL)


@models.command("create")
@click.argument("name")
@click.option("--team", required=True, help="The team that owns it.")
@click.option("--function", "business_function", help="The business function.")
@click.option(
    "--criticality",
    type=click.Choice(["low", "normal", "high", "critical"]),
    help="Normal if not given.",
)
@click.option("--description", default="")
@click.option("--isolation", type=_ISOLATION, help=_ISOLATION_HELP)
@click.option("--template", default="", help="Of the team: says what is not given here.")
@click.option("--tag", "tags", multiple=True, callback=_pairs, help="KEY=VALUE, repeatable.")
@connected
def create_model(
    name: str, team: str, home: Path | None, url: str | None, as_json: bool, **given: Any
) -> None:
    """Create a model."""
    with client(home, url) as connection:
        body = {"name": name, "owner_team": team, **given}
        show(connection.api.post("/v1/models", body), as_json, _MODEL)


@models.command("update")
@click.argument("name")
@click.option("--function", "business_function", help="The business function.")
@click.option("--criticality", type=click.Choice(["low", "normal", "high", "critical"]))
@click.option("--description")
@click.option("--isolation", type=_ISOLATION, help=_ISOLATION_HELP)
@click.option("--tag", "tags", multiple=True, callback=_pairs, help="KEY=VALUE; replaces all tags.")
@connected
def update_model(
    name: str, home: Path | None, url: str | None, as_json: bool, **given: Any
) -> None:
    """Change what describes a model."""
    changes = {key: value for key, value in given.items() if value}
    with client(home, url) as connection:
        show(connection.api.patch(f"/v1/models/{name}", changes), as_json, _MODEL)


@models.command("delete")
@click.argument("name")
@connected
def delete_model(name: str, home: Path | None, url: str | None, as_json: bool) -> None:
    """Delete a model that has no versions."""
    with client(home, url) as connection:
        connection.api.delete(f"/v1/models/{name}")


@click.group()
def versions() -> None:
    """Versions: immutable, each with its bundle, environment, metrics and lineage."""


@versions.command("list")
@click.argument("model")
@connected
def list_versions(model: str, home: Path | None, url: str | None, as_json: bool) -> None:
    """Newest first."""
    with client(home, url) as connection:
        show(connection.api.get(f"/v1/models/{model}/versions"), as_json, _VERSION)


@versions.command("show")
@click.argument("model")
@click.argument("version", default="latest")
@connected
def show_version(
    model: str, version: str, home: Path | None, url: str | None, as_json: bool
) -> None:
    """One version with its gates and variants. VERSION: semver, number, alias or latest."""
    with client(home, url) as connection:
        found: Any = connection.api.get(f"/v1/models/{model}/versions/{version}")
    if as_json:
        show(found, True)
        return
    show(found["version"], False, {**_VERSION, "reason": lambda v: v["reason"]})
    if found["progress"] is not None:
        click.echo(f"{'progress':<9}  {msgspec.convert(found['progress'], Progress)}")
    click.echo()
    gate = {k: (lambda row, k=k: row[k]) for k in ("gate", "verdict", "sentence")}
    show(found["gates"], False, gate)


def _arguments(
    _ctx: click.Context, _parameter: click.Parameter, given: tuple[str, ...]
) -> dict[str, Any]:
    """KEY=VALUE with a JSON value; what is no JSON is text."""
    found: dict[str, Any] = {}
    for key, text in _pairs(_ctx, _parameter, given).items():
        try:
            found[key] = json.loads(text)
        except ValueError:
            found[key] = text
    return found


def _numbers(
    context: click.Context, parameter: click.Parameter, given: tuple[str, ...]
) -> dict[str, float]:
    found = {}
    for key, text in _pairs(context, parameter, given).items():
        try:
            found[key] = float(text)
        except ValueError as error:
            raise click.BadParameter(f"{text!r} is no number.") from error
    return found


_FILE = click.Path(exists=True, path_type=Path)


@versions.command("register")
@click.argument("path", type=_FILE)
@click.option("--name", required=True, help="The model that it is a version of.")
@click.option("--team", help="Creates the model, owned by this team, if it is new.")
@click.option("--kind", help="What PATH holds, if that can't be told: sklearn, python, ...")
@click.option("--example", type=_FILE, help="Rows of its inputs: .npy, .npz, .json or .csv.")
@click.option("--reference", type=_FILE, help="Training rows to compare production with.")
@click.option(
    "--feature", "features", multiple=True, help="Name of a column of its input, in their order."
)
@click.option("--source", type=_FILE, help="Python file with the class of a state dict's module.")
@click.option("--class", "class_name", help="The name of that class.")
@click.option(
    "--argument",
    "arguments",
    multiple=True,
    callback=_arguments,
    help="KEY=VALUE for its constructor, repeatable.",
)
@click.option("--version", help="Semantic version; proposed from what changed if not given.")
@click.option("--requirement", "requirements", multiple=True, help="Of its environment.")
@click.option("--python", help="Python version of its environment.")
@click.option("--compile/--no-compile", default=True, help="May it serve as ONNX?")
@click.option(
    "--sandbox/--no-sandbox",
    "sandboxed",
    default=True,
    help="Off: the model may reach out while it is asked what it takes.",
)
@click.option(
    "--code", multiple=True, type=_FILE, help="Source file or folder to keep with it; repeatable."
)
@click.option(
    "--metric", "metrics", multiple=True, callback=_numbers, help="KEY=NUMBER, repeatable."
)
@click.option(
    "--parameter", "parameters", multiple=True, callback=_pairs, help="KEY=VALUE, repeatable."
)
@click.option("--tag", "tags", multiple=True, callback=_pairs, help="KEY=VALUE, repeatable.")
@click.option("--wait", is_flag=True, help="Until it was checked and compiled.")
@connected
def register(
    path: Path,
    name: str,
    team: str | None,
    code: tuple[Path, ...],
    metrics: dict[str, float],
    parameters: dict[str, str],
    tags: dict[str, str],
    example: Path | None,
    reference: Path | None,
    features: tuple[str, ...],
    requirements: tuple[str, ...],
    python: str | None,
    version: str | None,
    wait: bool,
    home: Path | None,
    url: str | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Register the model at PATH as a new version.

    PATH is a model as its framework saved it, a folder in MLflow's format, or a bundle
    (bundle.json, the artifact, example.json); see docs/frameworks.md.
    """
    from modelfleet.client.saving import detect, own_python, read_rows

    with client(home, url) as connection:
        if given["kind"] is None and detect(path) == "bundle":
            if team is not None:
                connection.ensure_model(name, team=team)
            made = connection.register_folder(
                name,
                path,
                requirements=requirements,
                python=python or own_python(),
                compile=given["compile"],
                version=version,
                metrics=metrics,
                parameters=parameters,
                code=code,
                tags=tags,
            )
        else:
            made = connection.register(
                path,
                None if example is None else read_rows(example),
                reference=None if reference is None else read_rows(reference),
                name=name,
                team=team,
                features=features or None,
                requirements=requirements or None,
                python=python,
                version=version,
                metrics=metrics,
                parameters=parameters,
                code=code,
                tags=tags,
                **given,
            )
        if wait:
            connection.wait_until_ready(name, made.version)
        found: Any = connection.api.get(f"/v1/models/{name}/versions/{made.version}")
    show(found["version"], as_json, _VERSION)


@versions.command("delete")
@click.argument("model")
@click.argument("version")
@connected
def delete_version(
    model: str, version: str, home: Path | None, url: str | None, as_json: bool
) -> None:
    """Delete a version that nothing refers to."""
    with client(home, url) as connection:
        connection.api.delete(f"/v1/models/{model}/versions/{version}")


@versions.command("lineage")
@click.argument("model")
@click.argument("version", default="latest")
@click.option("--downstream", is_flag=True, help="What was made of it, and who consumes that.")
@connected
def lineage(
    model: str,
    version: str,
    downstream: bool,
    home: Path | None,
    url: str | None,
    as_json: bool,
) -> None:
    """What a version was made of, nearest first."""
    direction = "downstream" if downstream else "upstream"
    with client(home, url) as connection:
        path = f"/v1/models/{model}/versions/{version}/lineage"
        show(connection.api.get(path, direction=direction), as_json, EDGE)


@click.group()
def aliases() -> None:
    """Aliases: names that point at a version and may move."""


@aliases.command("set")
@click.argument("model")
@click.argument("alias")
@click.argument("version")
@click.option(
    "--protected/--unprotected",
    default=None,
    help="Moved and freed by who may roll out; its version is not deleted.",
)
@connected
def set_alias(
    model: str,
    alias: str,
    version: str,
    protected: bool | None,
    home: Path | None,
    url: str | None,
    as_json: bool,
) -> None:
    """Point ALIAS at VERSION."""
    with client(home, url) as connection:
        body = {"version": version, "protected": protected}
        found = connection.api.put(f"/v1/models/{model}/aliases/{alias}", body)
    show(found, as_json, _VERSION)


@aliases.command("delete")
@click.argument("model")
@click.argument("alias")
@connected
def delete_alias(model: str, alias: str, home: Path | None, url: str | None, as_json: bool) -> None:
    """Remove an alias; its version stays."""
    with client(home, url) as connection:
        connection.api.delete(f"/v1/models/{model}/aliases/{alias}")
