"""Versions that are not run because they brought their workers down."""

from __future__ import annotations

from pathlib import Path

import click

from modelfleet.cli.base import client, connected, show

_QUARANTINED = {
    "model": lambda q: q["model"],
    "version": lambda q: q["version"],
    "since": lambda q: q["since"],
    "reason": lambda q: q["reason"],
}


@click.group()
def quarantine() -> None:
    """Versions that brought their workers down too often: they are not run."""


@quarantine.command("list")
@connected
def list_quarantined(home: Path | None, url: str | None, as_json: bool) -> None:
    """All of them, with the reason."""
    with client(home, url) as connection:
        show(connection.api.get("/v1/quarantine"), as_json, _QUARANTINED)


@quarantine.command("release")
@click.argument("model")
@click.argument("version")
@connected
def release(model: str, version: str, home: Path | None, url: str | None, as_json: bool) -> None:
    """Let a version run again; its earlier crashes no longer count."""
    with client(home, url) as connection:
        connection.api.post(f"/v1/models/{model}/versions/{version}/release", {})
