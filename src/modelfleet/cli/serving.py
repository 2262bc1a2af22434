"""Endpoints, rollouts, predictions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from modelfleet.cli.base import client, connected, show
from modelfleet.cli.traffic import traffic
from modelfleet.client import Client

_ENDPOINT = {
    "name": lambda e: e["name"],
    "model": lambda e: e["model"],
    "team": lambda e: e["owner_team"],
    "routes": lambda e: len(e["routes"]),
    "revision": lambda e: e["revision"],
    "applied": lambda e: e["applied_revision"],
}
_ROLLOUT = {
    "id": lambda r: r["id"],
    "endpoint": lambda r: r["endpoint"],
    "from": lambda r: r["from_version"],
    "to": lambda r: r["to_version"],
    "strategy": lambda r: r["strategy"],
    "state": lambda r: r["state"],
    "step": lambda r: r["step"],
    "why": lambda r: r["sentence"],
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
        _start(connection, body, endpoint, wait, as_json)


@click.group()
def rollouts() -> None:
    """Rollouts: moving an endpoint from one version to another, on evidence."""


@rollouts.command("start")
@click.argument("model")
@click.argument("version", default="latest")
@click.option("--endpoint", help="Defaults to the model's name; made if it is new.")
@click.option(
    "--strategy",
    default="canary",
    type=click.Choice(["canary", "blue-green", "shadow", "immediate"]),
)
@click.option("--weights", default="5,25,50", help="A canary's steps, in percent.")
@click.option("--step-seconds", default=60.0, help="Shortest time at a step.")
@click.option("--bake-seconds", default=60.0, help="Time after promotion.")
@click.option("--spec", "spec_file", type=click.File("rb"), help="The whole spec as JSON instead.")
@click.option("--wait", is_flag=True, help="Until it ended; exit code 1 if it was rolled back.")
@connected
def start_rollout(
    model: str,
    version: str,
    endpoint: str | None,
    strategy: str,
    weights: str,
    step_seconds: float,
    bake_seconds: float,
    spec_file: Any,
    wait: bool,
    home: Path | None,
    url: str | None,
    as_json: bool,
) -> None:
    """Roll VERSION of MODEL out."""
    spec: dict[str, object] = {"strategy": strategy}
    spec |= {"step_seconds": step_seconds, "bake_seconds": bake_seconds}
    if strategy == "canary":
        spec["weights"] = _basis_points(weights)
    if spec_file is not None:
        spec = _json(spec_file, "the spec is")
    with client(home, url) as connection:
        _start(
            connection, {"model": model, "version": version, "spec": spec}, endpoint, wait, as_json
        )


def _basis_points(weights: str) -> list[int]:
    try:
        return [round(100 * float(part)) for part in weights.split(",")]
    except (ValueError, OverflowError) as error:
        raise click.BadParameter(f"{weights!r} is no list of percents like 5,25,50") from error


def _json(file: Any, what: str) -> Any:
    try:
        return json.load(file)
    except ValueError as error:
        raise click.BadParameter(f"{what} not JSON: {error}") from error


def _start(
    connection: Client, body: Mapping[str, object], endpoint: str | None, wait: bool, as_json: bool
) -> None:
    connection.prepare(str(body["model"]), str(body["version"]))
    found: Any = connection.api.post("/v1/rollouts", {**body, "endpoint": endpoint})
    if wait:
        ended = connection.wait_for_rollout(found["id"])
        details: Any = connection.api.get(f"/v1/rollouts/{ended.id}", ticks=0)
        found = details["rollout"]
    show(found, as_json, _ROLLOUT)
    if wait and found["state"] != "succeeded":
        raise SystemExit(1)


@rollouts.command("list")
@click.option("--endpoint", help="Only those of this endpoint.")
@connected
def list_rollouts(endpoint: str | None, home: Path | None, url: str | None, as_json: bool) -> None:
    """Newest first."""
    with client(home, url) as connection:
        show(connection.api.get("/v1/rollouts", endpoint=endpoint), as_json, _ROLLOUT)


@rollouts.command("show")
@click.argument("rollout")
@connected
def show_rollout(rollout: str, home: Path | None, url: str | None, as_json: bool) -> None:
    """One rollout: its moves and the judge's last words."""
    with client(home, url) as connection:
        found: Any = connection.api.get(f"/v1/rollouts/{rollout}")
    if as_json:
        show(found, True)
        return
    show(found["rollout"], False, _ROLLOUT)
    click.echo()
    move = {k: (lambda row, k=k: row[k]) for k in ("at", "state", "step", "sentence", "actor")}
    show(found["moves"], False, move)
    if found["evidence"]:
        click.echo()
        metric = {k: (lambda row, k=k: row[k]) for k in ("metric", "finding", "sentence")}
        show(found["evidence"][-1]["verdict"]["metrics"], False, metric)


def _steer(verb: str, rollout: str, home: Path | None, url: str | None, as_json: bool) -> None:
    with client(home, url) as connection:
        show(connection.api.post(f"/v1/rollouts/{rollout}/{verb}"), as_json, _ROLLOUT)


@rollouts.command("pause")
@click.argument("rollout")
@connected
def pause(rollout: str, home: Path | None, url: str | None, as_json: bool) -> None:
    """Stay at the present step; harm still rolls back."""
    _steer("pause", rollout, home, url, as_json)


@rollouts.command("resume")
@click.argument("rollout")
@connected
def resume(rollout: str, home: Path | None, url: str | None, as_json: bool) -> None:
    """Go on."""
    _steer("resume", rollout, home, url, as_json)


@rollouts.command("abort")
@click.argument("rollout")
@connected
def abort(rollout: str, home: Path | None, url: str | None, as_json: bool) -> None:
    """All traffic back to the stable version."""
    _steer("abort", rollout, home, url, as_json)


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
    given = _json(inputs, "the inputs are")
    with client(home, url) as connection:
        show(connection.predict(endpoint, given, version=version), as_json)
