"""Experiments and runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from modelfleet.cli.base import client, connected, show
from modelfleet.cli.times import told

_EXPERIMENT = {
    "id": lambda e: e["number"],
    "name": lambda e: e["name"],
    "created": lambda e: told(e["created_at"]),
    "changed": lambda e: told(e["updated_at"]),
    "tags": lambda e: e["tags"],
}
_RUN = {
    "id": lambda r: r["id"],
    "name": lambda r: r["name"],
    "status": lambda r: r["status"],
    "started": lambda r: told(r["started_at"]),
    "metrics": lambda r: r["metrics"],
    "parameters": lambda r: r["parameters"],
}
_DETAILS = {
    "id": lambda r: r["id"],
    "name": lambda r: r["name"],
    "experiment": lambda r: f"{r['experiment']} ({r['experiment_number']})",
    "status": lambda r: r["status"] if r["deleted_at"] is None else f"{r['status']}, deleted",
    "user": lambda r: r["user"],
    "started": lambda r: told(r["started_at"]),
    "ended": lambda r: told(r["ended_at"]),
    "metrics": lambda r: r["metrics"],
    "parameters": lambda r: r["parameters"],
    "datasets": lambda r: (
        [f"{i['dataset']['name']}@{i['dataset']['digest']}" for i in r["inputs"]] or r["dataset"]
    ),
    "models": lambda r: [m["model_id"] for m in r["models"] if m["direction"] == "output"],
    "commit": lambda r: r["git_commit"],
    "artifacts": lambda r: r["artifact_uri"],
    "tags": lambda r: {k: v for k, v in r["tags"].items() if not k.startswith("mlflow.")},
}
_FILTER = 'In MLflow\'s language, for example "{}".'
_VIEW = click.Choice(["active", "deleted", "all"])
_LIMIT = click.IntRange(1, 1000)


@click.group()
def experiments() -> None:
    """Experiments: runs that belong together."""


@experiments.command("list")
@click.option("--filter", "filter_text", help=_FILTER.format("name LIKE 'churn%'"))
@click.option("--view", type=_VIEW, default="active", help="Deleted ones, too?")
@click.option("--limit", type=_LIMIT, default=100, help="At most that many.")
@connected
def list_experiments(
    filter_text: str | None,
    view: str,
    limit: int,
    home: Path | None,
    url: str | None,
    as_json: bool,
) -> None:
    """Experiments, newest first."""
    with client(home, url) as connection:
        found = connection.api.get("/v1/experiments", filter=filter_text, view=view, limit=limit)
    show(found, as_json, _EXPERIMENT)


@click.group()
def runs() -> None:
    """Training runs with parameters and metrics."""


@runs.command("list")
@click.argument("experiment")
@click.option("--filter", "filter_text", help=_FILTER.format("metrics.auc > 0.9"))
@click.option("--order-by", help='Like "metrics.auc DESC".')
@click.option("--view", type=_VIEW, default="active", help="Deleted ones, too?")
@click.option("--limit", type=_LIMIT, default=100, help="At most that many.")
@connected
def list_runs(
    experiment: str,
    filter_text: str | None,
    order_by: str | None,
    view: str,
    limit: int,
    home: Path | None,
    url: str | None,
    as_json: bool,
) -> None:
    """Runs of EXPERIMENT, its id or its name; the latest first."""
    with client(home, url) as connection:
        number = _number(connection, experiment)
        found = connection.api.get(
            f"/v1/experiments/{number}/runs",
            filter=filter_text,
            order_by=order_by,
            view=view,
            limit=limit,
        )
    show(found, as_json, _RUN)


@runs.command("show")
@click.argument("run")
@connected
def show_run(run: str, home: Path | None, url: str | None, as_json: bool) -> None:
    """One run: metrics, parameters, what it read and made."""
    with client(home, url) as connection:
        show(connection.api.get(f"/v1/runs/{run}"), as_json, _DETAILS)


def _number(connection: Any, experiment: str) -> str:
    if experiment.isdigit():
        return experiment
    quote = '"' if "'" in experiment else "'"
    found = connection.api.get("/v1/experiments", filter=f"name = {quote}{experiment}{quote}")
    if not found:
        from modelfleet.core.errors import NotFound

        raise NotFound(
            f"There is no experiment {experiment}.", hint="See: modelfleet experiments list"
        )
    return str(found[0]["number"])
