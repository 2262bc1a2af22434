"""Scoring tables."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import click

from modelfleet.cli.base import client, connected, show
from modelfleet.client import Client

_POLL_SECONDS = 0.25
_CODES = {400: 2, 403: 4, 404: 5, 409: 5, 503: 3}
_BATCH = {
    "id": lambda b: b["id"],
    "model": lambda b: f"{b['model']}@{b['version']}",
    "state": lambda b: b["state"],
    "rows": lambda b: b["progress"]["rows"],
    "rejected": lambda b: b["progress"]["rejected"],
    "of": lambda b: b["progress"]["total"],
    "input": lambda b: b["wish"]["input"],
    "output": lambda b: b["wish"]["output"],
    "created": lambda b: b["created_at"],
    "by": lambda b: b["created_by"],
}
_SUMMARY = {
    **{name: _BATCH[name] for name in ("id", "model", "state", "rows", "rejected")},
    "resumed at": lambda b: b["progress"]["resumed_rows"],
    "seconds": lambda b: round(b["progress"]["seconds"], 2),
    "rows/s": lambda b: round(b["progress"]["rows_per_second"]),
    "output": _BATCH["output"],
}


@click.group()
def batch() -> None:
    """Batches: score a whole table with a version, as it serves."""


def _columns(_ctx: click.Context, _parameter: click.Parameter, given: str) -> list[str]:
    return [part.strip() for part in given.split(",") if part.strip()]


@batch.command()
@click.argument("model")
@click.option("--input", "source", required=True, help="Parquet or CSV: file, folder, glob; Delta.")
@click.option("--output", required=True, help="A folder, which is made.")
@click.option("--version", default="latest", help="Number, semantic version or alias.")
@click.option("--chunk-rows", type=int, help="Rows that are done or not done. [20000]")
@click.option("--key", default="", callback=_columns, help="Columns that the output holds, too.")
@click.option("--keep", is_flag=True, help="The output holds all columns of the input.")
@click.option(
    "--columns", default="", callback=_columns, help="feature=column,... or all in their order."
)
@click.option("--on-error", type=click.Choice(["fail", "skip"]), default="fail")
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["parquet", "csv", "delta"]),
    help="Of the output. [by its name, else parquet]",
)
@click.option("--detach", is_flag=True, help="Start it and return.")
@connected
def run(
    model: str,
    source: str,
    output: str,
    version: str,
    chunk_rows: int | None,
    key: list[str],
    keep: bool,
    columns: list[str],
    on_error: str,
    output_format: str | None,
    detach: bool,
    home: Path | None,
    url: str | None,
    as_json: bool,
) -> None:
    """Score a table with MODEL and follow until it is done.

    The server reads and writes the files. Ctrl-C detaches: the job goes on. The same command run
    again follows the job, or goes on where an earlier one ended.
    """
    wish: dict[str, object] = {
        "model": model,
        "version": version,
        "input": os.path.abspath(source),
        "output": os.path.abspath(output),
        "output_format": output_format,
        "key": key,
        "keep": keep,
        "columns": columns,
        "on_error": on_error,
    }
    if chunk_rows is not None:
        wish["chunk_rows"] = chunk_rows
    with client(home, url) as connection:
        found: Any = connection.api.post("/v1/batches", wish)
        if not detach:
            try:
                found = _follow(connection, found)
            except KeyboardInterrupt:
                click.echo(f"Batch {found['id']} goes on.", err=True)
                click.echo(f"Stop it: modelfleet batch cancel {found['id']}", err=True)
                raise SystemExit(130) from None
    if as_json:
        show(_summary(found), True)
    elif found["state"] != "failed":
        show(found, False, _SUMMARY)
    _leave(found)


def _summary(found: Any) -> dict[str, object]:
    """What scripts ask for, on top; the job as the API tells it below."""
    progress = found["progress"]
    names = ("rows", "rejected", "resumed_rows", "seconds", "rows_per_second")
    return {
        "id": found["id"],
        "state": found["state"],
        "model": found["model"],
        "version": found["version"],
        **{name: progress[name] for name in names},
        "output": found["wish"]["output"],
        "error": progress["error"],
        "batch": found,
    }


def _leave(found: Any) -> None:
    """Exit with what became of the job."""
    if found["state"] == "failed":
        progress = found["progress"]
        click.secho(f"Error: {progress['error']}", fg="red", err=True)
        if progress["hint"]:
            click.echo(progress["hint"], err=True)
        raise SystemExit(_CODES.get(progress["status"], 70))
    if found["state"] == "cancelled":
        raise SystemExit(1)


def _follow(connection: Client, found: Any) -> Any:
    """Show how far it is until it is over."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[pace]}"),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("queued", total=None, pace="")
        while found["state"] in ("queued", "running"):
            progress = found["progress"]
            known = found["state"] if found["state"] == "queued" else progress["state"]
            bar.update(
                task,
                description=known,
                total=progress["total"],
                completed=progress["rows"] + progress["rejected"],
                pace=f"{progress['rows_per_second']:,.0f} rows/s",
            )
            time.sleep(_POLL_SECONDS)
            found = connection.api.get(f"/v1/batches/{found['id']}")
    return found


@batch.command("list")
@click.option("--model", help="Of this model only.")
@click.option("--limit", default=100, type=click.IntRange(1, 1000))
@connected
def list_batches(
    model: str | None, limit: int, home: Path | None, url: str | None, as_json: bool
) -> None:
    """The newest first."""
    with client(home, url) as connection:
        show(connection.api.get("/v1/batches", model=model, limit=limit), as_json, _BATCH)


@batch.command("show")
@click.argument("batch_id")
@connected
def show_batch(batch_id: str, home: Path | None, url: str | None, as_json: bool) -> None:
    """One job and how far it is."""
    with client(home, url) as connection:
        found: Any = connection.api.get(f"/v1/batches/{batch_id}")
        columns = _SUMMARY | {"error": lambda b: b["progress"]["error"]}
        show(found, as_json, columns)


@batch.command()
@click.argument("batch_id")
@connected
def cancel(batch_id: str, home: Path | None, url: str | None, as_json: bool) -> None:
    """Stop a job; what is written stays, and the same `run` would go on from there."""
    with client(home, url) as connection:
        found: Any = connection.api.post(f"/v1/batches/{batch_id}/cancel")
        show(found, as_json, _SUMMARY)
