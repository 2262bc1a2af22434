"""Training runs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from modelfleet.cli.base import client, connected, show
from modelfleet.client import Client

_ENDED = {"promoted", "rejected", "failed", "cancelled"}
_RUN = {
    "id": lambda r: r["id"],
    "model": lambda r: r["model"],
    "cause": lambda r: f"{r['cause']['kind']} {r['cause']['detail']}".strip(),
    "state": lambda r: r["state"],
    "version": lambda r: r["version"],
    "why": lambda r: r["sentence"],
    "created": lambda r: r["created_at"],
    "by": lambda r: r["actor"],
}


@click.group()
def training() -> None:
    """Training: make a better version as the model's document says."""


@training.command()
@click.argument("model")
@click.option("--wait", is_flag=True, help="Until it is over; exit code 1 if it came to nothing.")
@connected
def start(model: str, wait: bool, home: Path | None, url: str | None, as_json: bool) -> None:
    """Train MODEL now."""
    with client(home, url) as connection:
        found: Any = connection.api.post(f"/v1/models/{model}/trainings")
        if wait:
            found = _follow(connection, found)
        show(found, as_json, _RUN)
    if wait and found["state"] != "promoted":
        raise SystemExit(1)


def _follow(connection: Client, found: Any) -> Any:
    told = ""
    while found["state"] not in _ENDED:
        if found["sentence"] != told:
            told = found["sentence"]
            click.echo(f"{found['state']}: {told}", err=True)
        time.sleep(1.0)
        found = connection.api.get(f"/v1/trainings/{found['id']}")
    return found


@training.command("list")
@click.option("--model")
@connected
def list_(model: str | None, home: Path | None, url: str | None, as_json: bool) -> None:
    """Newest first."""
    with client(home, url) as connection:
        show(connection.api.get("/v1/trainings", model=model), as_json, _RUN)


@training.command("show")
@click.argument("run")
@connected
def show_(run: str, home: Path | None, url: str | None, as_json: bool) -> None:
    """One run."""
    with client(home, url) as connection:
        show(connection.api.get(f"/v1/trainings/{run}"), as_json, _RUN)


@training.command()
@click.argument("run")
@connected
def log(run: str, home: Path | None, url: str | None, as_json: bool) -> None:
    """The end of what its program said."""
    with client(home, url) as connection:
        found: Any = connection.api.get(f"/v1/trainings/{run}/log")
    if as_json:
        show(found, True)
    else:
        click.echo(found["log"])


@training.command()
@click.argument("run")
@connected
def cancel(run: str, home: Path | None, url: str | None, as_json: bool) -> None:
    """End a run."""
    with client(home, url) as connection:
        show(connection.api.post(f"/v1/trainings/{run}/cancel"), as_json, _RUN)


@training.command()
@click.argument("model")
@connected
def hook(model: str, home: Path | None, url: str | None, as_json: bool) -> None:
    """The path to post to that starts a run of MODEL; who knows it needs no key."""
    with client(home, url) as connection:
        found: Any = connection.api.get(f"/v1/models/{model}/training-hook")
    if as_json:
        show(found, True)
    else:
        click.echo(found["path"])


_STAGE = {key: (lambda s, key=key: s[key]) for key in ("name", "state", "title", "note")}


@click.command()
@click.argument("model")
@connected
def delivery(model: str, home: Path | None, url: str | None, as_json: bool) -> None:
    """Where MODEL stands between development and production, and what it waits for."""
    with client(home, url) as connection:
        found: Any = connection.api.get(f"/v1/models/{model}/delivery")
    if as_json:
        show(found, True)
        return
    show(found["stages"], False, _STAGE)
    for one in found["waits"]:
        click.echo(f"waits for: {one}")
