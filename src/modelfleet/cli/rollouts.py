"""Rollouts: start, steer and look at them; groups, and freeze windows."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from modelfleet.cli.base import client, connected, show
from modelfleet.client import Client

_ROLLOUT = {
    "id": lambda r: r["id"],
    "endpoint": lambda r: r["endpoint"],
    "from": lambda r: r["from_version"],
    "to": lambda r: ", ".join(a["version"] for a in r.get("arms", ())) or r["to_version"],
    "strategy": lambda r: r["strategy"],
    "state": lambda r: r["state"],
    "step": lambda r: r["step"],
    "why": lambda r: r["sentence"],
    "waits for": lambda r: r.get("waits"),
}
_ENDS = ("succeeded", "rolled_back", "cancelled", "superseded", "frozen")
_FREEZE = {
    "name": lambda f: f["name"],
    "for": lambda f: f["endpoint"] or ("all teams" if f["team"] == "*" else f"team {f['team']}"),
    "when": lambda f: (
        f"{f['window']['cron']} ({f['window']['zone']}), {f['window']['seconds']:g} s"
        if f["window"]["cron"]
        else f"{f['window']['begins'] or 'always'} to {f['window']['ends'] or 'for ever'}"
    ),
    "holds until": lambda f: f["until"],
    "why": lambda f: f["window"]["reason"],
    "may override": lambda f: f["role"],
}


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
    type=click.Choice(["canary", "blue-green", "shadow", "ab", "immediate"]),
)
@click.option("--weights", default="5,25,50", help="A canary's steps, in percent.")
@click.option("--arm", "arms", multiple=True, help="Of ab: VERSION=PERCENT; several.")
@click.option("--step-seconds", default=60.0, help="Shortest time at a step.")
@click.option("--bake-seconds", default=60.0, help="Time after promotion.")
@click.option("--sticky", default="", help="header:NAME, cookie:NAME or caller, while it runs.")
@click.option("--not-before", default="", help="Earliest start, as 2027-01-31T08:00:00Z.")
@click.option("--spec", "spec_file", type=click.File("rb"), help="The whole spec as JSON instead.")
@click.option("--supersede", is_flag=True, help="A rollout that runs there ends.")
@click.option("--wait", is_flag=True, help="Until it ended; exit code 1 if it did not succeed.")
@connected
def start_rollout(
    model: str,
    version: str,
    endpoint: str | None,
    strategy: str,
    weights: str,
    arms: tuple[str, ...],
    step_seconds: float,
    bake_seconds: float,
    sticky: str,
    not_before: str,
    spec_file: Any,
    supersede: bool,
    wait: bool,
    home: Path | None,
    url: str | None,
    as_json: bool,
) -> None:
    """Roll VERSION of MODEL out."""
    spec: dict[str, object] = {"strategy": strategy, "not_before": not_before}
    spec |= {"step_seconds": step_seconds, "bake_seconds": bake_seconds}
    if strategy == "canary":
        spec["weights"] = _basis_points(weights)
    if arms:
        spec["arms"] = [_arm(one) for one in arms]
    if sticky:
        by, _, name = sticky.partition(":")
        spec["sticky"] = {"by": by, "name": name}
    if spec_file is not None:
        spec = read_json(spec_file, "the spec is")
    body = {"model": model, "version": version, "spec": spec, "supersede": supersede}
    with client(home, url) as connection:
        start(connection, body, endpoint, wait, as_json)


def _basis_points(weights: str) -> list[int]:
    try:
        return [round(100 * float(part)) for part in weights.split(",")]
    except (ValueError, OverflowError) as error:
        raise click.BadParameter(f"{weights!r} is no list of percents like 5,25,50") from error


def _arm(text: str) -> dict[str, object]:
    version, _, percent = text.rpartition("=")
    try:
        return {"version": version, "weight": _basis_points(percent)[0]}
    except click.BadParameter as error:
        raise click.BadParameter(f"{text!r} is no arm: write 2.1.0=10") from error


def read_json(file: Any, what: str) -> Any:
    """The content of a file; what: how the complaint begins."""
    try:
        return json.load(file)
    except ValueError as error:
        raise click.BadParameter(f"{what} not JSON: {error}") from error


def start(
    connection: Client, body: Mapping[str, object], endpoint: str | None, wait: bool, as_json: bool
) -> None:
    """Start a rollout, and wait for its end if that is wanted."""
    spec = body["spec"]
    arms = spec.get("arms") if isinstance(spec, Mapping) else None
    for version in [one["version"] for one in arms or ()] or [body["version"]]:
        connection.prepare(str(body["model"]), str(version))
    found: Any = connection.api.post("/v1/rollouts", {**body, "endpoint": endpoint})
    if wait:
        found = _until_ended(connection, found)
    show(found, as_json, _ROLLOUT)
    if wait and found["state"] != "succeeded":
        raise SystemExit(1)


def _until_ended(connection: Client, found: Any) -> Any:
    """Tells on stderr what it waits for whenever that changes."""
    told = ""
    while True:
        details: Any = connection.api.get(f"/v1/rollouts/{found['id']}", ticks=0)
        one = details["rollout"]
        if one["state"] in _ENDS:
            return one
        said = f"{one['state'].replace('_', ' ')}: {one.get('waits') or one['sentence']}"
        if said != told:
            click.echo(said, err=True)
            told = said
        time.sleep(0.25)


@rollouts.command("list")
@click.option("--endpoint", help="Only those of this endpoint.")
@click.option("--group", help="Only those of this group.")
@click.option("--active", is_flag=True, help="Only those that run.")
@connected
def list_rollouts(
    endpoint: str | None,
    group: str | None,
    active: bool,
    home: Path | None,
    url: str | None,
    as_json: bool,
) -> None:
    """Newest first."""
    with client(home, url) as connection:
        found = connection.api.get(
            "/v1/rollouts", endpoint=endpoint, group=group, active=active or None
        )
        show(found, as_json, _ROLLOUT)


@rollouts.command("show")
@click.argument("rollout")
@connected
def show_rollout(rollout: str, home: Path | None, url: str | None, as_json: bool) -> None:
    """One rollout: its moves, what people were asked, and the judge's last words."""
    with client(home, url) as connection:
        found: Any = connection.api.get(f"/v1/rollouts/{rollout}")
    if as_json:
        show(found, True)
        return
    show(found["rollout"], False, _ROLLOUT)
    click.echo()
    move = {k: (lambda row, k=k: row[k]) for k in ("at", "state", "step", "sentence", "actor")}
    show(found["moves"], False, move)
    if found["approvals"]:
        click.echo()
        asked = {k: (lambda row, k=k: row[k]) for k in ("id", "state", "role", "sentence")}
        show(found["approvals"], False, asked)
    if found["evidence"]:
        click.echo()
        metric = {k: (lambda row, k=k: row[k]) for k in ("metric", "finding", "sentence")}
        show(found["evidence"][-1]["verdict"]["metrics"], False, metric)


def _steer(
    verb: str,
    rollout: str,
    home: Path | None,
    url: str | None,
    as_json: bool,
    body: Mapping[str, object] | None = None,
) -> None:
    with client(home, url) as connection:
        show(connection.api.post(f"/v1/rollouts/{rollout}/{verb}", body), as_json, _ROLLOUT)


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
@click.option("--reason", default="", help="Why.")
@connected
def abort(rollout: str, reason: str, home: Path | None, url: str | None, as_json: bool) -> None:
    """All traffic back to the stable version."""
    _steer("abort", rollout, home, url, as_json, {"reason": reason})


@rollouts.command("promote")
@click.argument("rollout")
@click.option("--reason", required=True, help="Why without the judge's proof.")
@connected
def promote(rollout: str, reason: str, home: Path | None, url: str | None, as_json: bool) -> None:
    """All traffic to the new version, by hand."""
    _steer("promote", rollout, home, url, as_json, {"reason": reason})


@rollouts.command("retry")
@click.argument("rollout")
@connected
def retry(rollout: str, home: Path | None, url: str | None, as_json: bool) -> None:
    """The same again: a new attempt with a judge of its own."""
    _steer("retry", rollout, home, url, as_json)


@rollouts.command("override")
@click.argument("rollout")
@click.option("--reason", required=True, help="Why it can't wait.")
@connected
def override(rollout: str, reason: str, home: Path | None, url: str | None, as_json: bool) -> None:
    """Let a rollout advance in freeze windows."""
    _steer("override", rollout, home, url, as_json, {"reason": reason})


@rollouts.command("group")
@click.argument("members", nargs=-1, required=True)
@click.option("--spec", "spec_file", type=click.File("rb"), help="What each is told, as JSON.")
@click.option("--supersede", is_flag=True, help="Rollouts that run there end.")
@connected
def group(
    members: tuple[str, ...],
    spec_file: Any,
    supersede: bool,
    home: Path | None,
    url: str | None,
    as_json: bool,
) -> None:
    """Move several models as one: each of MEMBERS is MODEL@VERSION.

    All are ready and have passed their gates before any moves; harm in one takes all back.
    """
    body = {
        "members": [_member(one) for one in members],
        "spec": read_json(spec_file, "the spec is") if spec_file else {},
        "supersede": supersede,
    }
    with client(home, url) as connection:
        show(connection.api.post("/v1/rollout-groups", body), as_json, _ROLLOUT)


def _member(text: str) -> dict[str, str]:
    model, _, version = text.partition("@")
    return {"model": model, "version": version or "latest"}


@click.group()
def freezes() -> None:
    """Freeze windows: times in which no rollout starts or advances."""


@freezes.command("list")
@connected
def list_freezes(home: Path | None, url: str | None, as_json: bool) -> None:
    """All, and which hold now."""
    with client(home, url) as connection:
        show(connection.api.get("/v1/freezes"), as_json, _FREEZE)


@freezes.command("create")
@click.argument("name")
@click.option("--reason", required=True, help="Told to whoever has to wait.")
@click.option("--cron", default="", help="When it begins, again and again: '0 18 * * 5'.")
@click.option("--seconds", default=0.0, help="How long it lasts from each beginning.")
@click.option("--zone", default="UTC", help="Time zone of the cron expression.")
@click.option("--from", "begins", default="", help="Once: 2027-12-20T00:00:00Z.")
@click.option("--to", "ends", default="", help="Once: until when.")
@click.option("--team", default="*", help="Only this team.")
@click.option("--endpoint", default="", help="Only this endpoint.")
@click.option("--role", default="approver", help="Who may override it for a rollout.")
@connected
def create_freeze(
    name: str, home: Path | None, url: str | None, as_json: bool, **window: object
) -> None:
    """Nothing starts or advances in the window NAME; rollbacks always may."""
    with client(home, url) as connection:
        found = connection.api.post("/v1/freezes", {"name": name, **window})
        show(found, as_json, _FREEZE)


@freezes.command("delete")
@click.argument("name")
@connected
def delete_freeze(name: str, home: Path | None, url: str | None, as_json: bool) -> None:
    """Take a freeze window back."""
    with client(home, url) as connection:
        connection.api.delete(f"/v1/freezes/{name}")
