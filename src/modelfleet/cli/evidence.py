"""The fleet at a glance, predictions, outcomes, alerts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from modelfleet.cli.base import client, connected, show

_FLEET = {
    "endpoint": lambda r: r["endpoint"],
    "team": lambda r: r["team"],
    "version": lambda r: r["stable"],
    "state": lambda r: r["state"],
    "req/s": lambda r: r["requests_per_second"],
    "errors": lambda r: None if r["error_rate"] is None else f"{r['error_rate']:.2%}",
    "p95 ms": lambda r: r["p95_ms"],
    "requests": lambda r: r["requests"],
    "alerts": lambda r: r["alerts"],
}
_ALERT = {
    "id": lambda a: a["id"],
    "kind": lambda a: a["kind"],
    "state": lambda a: a["state"],
    "endpoint": lambda a: a["endpoint"],
    "version": lambda a: a["version"],
    "subject": lambda a: a["subject"],
    "what": lambda a: a["summary"],
}
_PREDICTION = {
    "id": lambda p: p["prediction_id"],
    "status": lambda p: p["status"],
    "ms": lambda p: p["latency_us"] / 1000,
    "score": lambda p: p["score"],
    "inputs": lambda p: p["inputs"],
    "outputs": lambda p: p["outputs"],
}


@click.command()
@connected
def fleet(home: Path | None, url: str | None, as_json: bool) -> None:
    """All endpoints at a glance."""
    with client(home, url) as connection:
        found: Any = connection.api.get("/v1/fleet")
    if as_json:
        show(found, True)
        return
    show(list(found["rows"]), False, _FLEET)


@click.command()
@click.argument("model")
@click.argument("version", default="latest")
@click.option("--limit", default=20)
@connected
def predictions(
    model: str, version: str, limit: int, home: Path | None, url: str | None, as_json: bool
) -> None:
    """The newest predictions of a version."""
    with client(home, url) as connection:
        path = f"/v1/models/{model}/versions/{version}/predictions"
        show(connection.api.get(path, limit=limit), as_json, _PREDICTION)


@click.group()
def outcomes() -> None:
    """What became of predictions."""


@outcomes.command("report")
@click.argument("file", type=click.File("rb"), default="-")
@connected
def report(file: Any, home: Path | None, url: str | None, as_json: bool) -> None:
    """Send FILE (default: stdin), JSON lines of {prediction_id, value, event_time?}."""
    headers = {"content-type": "application/x-ndjson"}
    with client(home, url) as connection:
        response = connection.api.call(
            "POST", "/v1/outcomes:batch", content=file.read(), headers=headers
        )
    show(response.json(), as_json, {"accepted": lambda r: r["accepted"]})


@click.group()
def alerts() -> None:
    """What is not as it should be."""


@alerts.command("list")
@click.option("--state", type=click.Choice(["pending", "firing", "acknowledged", "resolved"]))
@connected
def list_alerts(state: str | None, home: Path | None, url: str | None, as_json: bool) -> None:
    """Newest first; exit code 0 whether or not there are any."""
    with client(home, url) as connection:
        show(connection.api.get("/v1/alerts", state=state), as_json, _ALERT)


@alerts.command("acknowledge")
@click.argument("alert")
@connected
def acknowledge(alert: str, home: Path | None, url: str | None, as_json: bool) -> None:
    """Take note of an alert."""
    with client(home, url) as connection:
        show(connection.api.post(f"/v1/alerts/{alert}/acknowledge"), as_json, _ALERT)
