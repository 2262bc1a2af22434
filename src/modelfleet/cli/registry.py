"""Models, versions, aliases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from modelfleet.cli.base import client, connected, show

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
@click.option("--function", "business_function", default="", help="The business function.")
@click.option(
    "--criticality", default="normal", type=click.Choice(["low", "normal", "high", "critical"])
)
@click.option("--description", default="")
@click.option("--isolation", default="shared", type=_ISOLATION, help=_ISOLATION_HELP)
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
    click.echo()
    gate = {k: (lambda row, k=k: row[k]) for k in ("gate", "verdict", "sentence")}
    show(found["gates"], False, gate)


@versions.command("register")
@click.argument("model")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--version", help="Semantic version; proposed from what changed if not given.")
@click.option("--requirement", "requirements", multiple=True, help="Of its environment.")
@click.option("--python", default="3.11", help="Python version of its environment.")
@click.option("--wait", is_flag=True, help="Until it was checked and compiled.")
@connected
def register(
    model: str,
    folder: Path,
    version: str | None,
    requirements: tuple[str, ...],
    python: str,
    wait: bool,
    home: Path | None,
    url: str | None,
    as_json: bool,
) -> None:
    """Register a bundle FOLDER (bundle.json, the artifact, example.json) as a new version."""
    with client(home, url) as connection:
        made = connection.register_folder(
            model, folder, requirements=requirements, python=python, version=version
        )
        if wait:
            connection.wait_until_ready(model, made.version)
        found: Any = connection.api.get(f"/v1/models/{model}/versions/{made.version}")
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
@connected
def lineage(model: str, version: str, home: Path | None, url: str | None, as_json: bool) -> None:
    """What a version was made of, nearest first."""
    columns = {
        "from": lambda e: f"{e['source']['kind']} {e['source']['name']}",
        "relation": lambda e: e["relation"],
        "to": lambda e: f"{e['destination']['kind']} {e['destination']['name']}",
    }
    with client(home, url) as connection:
        found = connection.api.get(f"/v1/models/{model}/versions/{version}/lineage")
    show(found, as_json, columns)


@click.group()
def aliases() -> None:
    """Aliases: names that point at a version and may move."""


@aliases.command("set")
@click.argument("model")
@click.argument("alias")
@click.argument("version")
@connected
def set_alias(
    model: str, alias: str, version: str, home: Path | None, url: str | None, as_json: bool
) -> None:
    """Point ALIAS at VERSION."""
    with client(home, url) as connection:
        found = connection.api.put(f"/v1/models/{model}/aliases/{alias}", {"version": version})
    show(found, as_json, _VERSION)


@aliases.command("delete")
@click.argument("model")
@click.argument("alias")
@connected
def delete_alias(model: str, alias: str, home: Path | None, url: str | None, as_json: bool) -> None:
    """Remove an alias; its version stays."""
    with client(home, url) as connection:
        connection.api.delete(f"/v1/models/{model}/aliases/{alias}")
