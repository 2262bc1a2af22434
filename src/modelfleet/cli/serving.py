"""Endpoints, deployments, predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from modelfleet.cli.base import client, connected, show
from modelfleet.cli.rollouts import read_json, start
from modelfleet.cli.traffic import traffic

_ENDPOINT = {
    "name": lambda e: e["name"],
    "model": lambda e: e["model"],
    "team": lambda e: e["owner_team"],
    "routes": lambda e: len(e["routes"]),
    "revision": lambda e: e["revision"],
    "applied": lambda e: e["applied_revision"],
}


@click.group()
def endpoints() -> None:
    """Endpoints: the public names that clients call."""


endpoints.add_command(traffic)


@endpoints.command("list")
@connected
def list_endpoints(home: Path | None, url: str | None, as_json: bool) -> None:
    """All endpoints."""
    with client(home, url) as connection:
        show(connection.api.get("/v1/endpoints"), as_json, _ENDPOINT)


@endpoints.command("show")
@click.argument("name")
@connected
def show_endpoint(name: str, home: Path | None, url: str | None, as_json: bool) -> None:
    """One endpoint with its routes."""
    with client(home, url) as connection:
        show(connection.api.get(f"/v1/endpoints/{name}"), as_json)


@endpoints.command("create")
@click.argument("name")
@click.argument("model")
@connected
def create_endpoint(
    name: str, model: str, home: Path | None, url: str | None, as_json: bool
) -> None:
    """Give MODEL a public NAME."""
    with client(home, url) as connection:
        body = {"name": name, "model": model}
        show(connection.api.post("/v1/endpoints", body), as_json, _ENDPOINT)


@endpoints.command("delete")
@click.argument("name")
@connected
def delete_endpoint(name: str, home: Path | None, url: str | None, as_json: bool) -> None:
    """Stop serving a name."""
    with client(home, url) as connection:
        connection.api.delete(f"/v1/endpoints/{name}")


@click.command()
@click.argument("model")
@click.argument("version", default="latest")
@click.option("--endpoint", help="Defaults to the model's name; made if it is new.")
@click.option("--wait/--no-wait", default=True, help="Until it serves.")
@connected
def deploy(
    model: str,
    version: str,
    endpoint: str | None,
    wait: bool,
    home: Path | None,
    url: str | None,
    as_json: bool,
) -> None:
    """Roll VERSION of MODEL out at once."""
    body = {"model": model, "version": version, "spec": {"strategy": "immediate"}}
    with client(home, url) as connection:
        start(connection, body, endpoint, wait, as_json)


@click.command()
@click.argument("endpoint")
@click.argument("inputs", type=click.File("r"), default="-")
@click.option("--version", help="Ask this version; it must be one that the endpoint routes to.")
@connected
def predict(
    endpoint: str,
    inputs: Any,
    version: str | None,
    home: Path | None,
    url: str | None,
    as_json: bool,
) -> None:
    """Call ENDPOINT with INPUTS: JSON, a matrix or a mapping of columns (default: stdin)."""
    given = read_json(inputs, "the inputs are")
    with client(home, url) as connection:
        show(connection.predict(endpoint, given, version=version), as_json)
