"""Data sets: tables with versions, that gates measure on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from modelfleet.cli.base import client, connected, show
from modelfleet.client import Client
from modelfleet.client.errors import ClientError

_DATASET = {
    "name": lambda d: f"{d['name']}@{d['version']}",
    "rows": lambda d: d["rows"],
    "columns": lambda d: len(d["columns"]),
    "format": lambda d: d["format"],
    "team": lambda d: d["owner_team"],
    "sha256": lambda d: d["sha256"][:12],
    "by": lambda d: d["created_by"],
    "created": lambda d: d["created_at"],
}
_ONE = {**_DATASET, "columns": lambda d: d["columns"], "description": lambda d: d["description"]}


@click.group()
def datasets() -> None:
    """Data sets with versions: NAME@3, NAME@latest."""


@datasets.command("push")
@click.argument("name")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--team", help="Its owner, if it is new.")
@click.option("--description", default="", help="What it is, if it is new.")
@connected
def push(
    name: str,
    file: Path,
    team: str | None,
    description: str,
    home: Path | None,
    url: str | None,
    as_json: bool,
) -> None:
    """Upload FILE (CSV or Parquet) as the next version of NAME.

    The same content again is the version that has it already.
    """
    with client(home, url) as connection:
        sha256 = upload(connection, file)
        body = {"sha256": sha256, "format": kind_of(file), "team": team, "description": description}
        found: Any = connection.api.post(f"/v1/datasets/{name}/versions", body)
    show(found, as_json, _ONE)


@datasets.command("list")
@connected
def list_datasets(home: Path | None, url: str | None, as_json: bool) -> None:
    """The newest version of each."""
    with client(home, url) as connection:
        show(connection.api.get("/v1/datasets"), as_json, _DATASET)


@datasets.command("show")
@click.argument("reference")
@connected
def show_dataset(reference: str, home: Path | None, url: str | None, as_json: bool) -> None:
    """A version (NAME@3, NAME@latest), or all versions of NAME."""
    name, at, version = reference.partition("@")
    with client(home, url) as connection:
        path = f"/v1/datasets/{name}/versions"
        if at:
            show(connection.api.get(f"{path}/{version}"), as_json, _ONE)
        else:
            show(connection.api.get(path), as_json, _DATASET)


def kind_of(file: Path) -> str:
    kinds = {".csv": "csv", ".parquet": "parquet", ".pq": "parquet"}
    found = kinds.get(file.suffix.lower())
    if found is None:
        raise ClientError(f"{file} is neither .csv nor .parquet.")
    return found


def upload(connection: Client, file: Path) -> str:
    """sha256 of the file, which is there then."""
    from modelfleet.client.uploads import digest_of

    sha256, _ = digest_of(file)
    connection.upload(sha256, file)
    return sha256
