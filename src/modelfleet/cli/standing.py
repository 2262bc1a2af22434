"""What versions count as: stages, lifecycle, tags; histories, copies, webhooks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from modelfleet.cli.base import client, connected, show
from modelfleet.cli.registry import _VERSION, models, versions

_STANDING = {
    **_VERSION,
    "stage": lambda v: v["stage"],
    "lifecycle": lambda v: v["lifecycle"],
    "tags": lambda v: v["tags"],
}
_HISTORY = {
    "when": lambda h: h["at"],
    "who": lambda h: h["who"],
    "version": lambda h: h["version"],
    "what": lambda h: h["sentence"],
}
_STAGE = {
    "name": lambda s: s["name"],
    "position": lambda s: s["position"],
    "protected": lambda s: "yes" if s["protected"] else "no",
}
_GARBAGE = {
    "in use": lambda g: f"{g['live']} blobs, {g['live_bytes'] / 2**20:.1f} MB",
    "marked": lambda g: f"{g['waiting']} blobs, {g['waiting_bytes'] / 2**20:.1f} MB",
    "removed": lambda g: (
        f"{g['removed']} blobs, {g['removed_bytes'] / 2**20:.1f} MB"
        + (" (would be)" if g["dry_run"] else "")
    ),
}
_WEBHOOK = {
    "id": lambda w: w["id"],
    "name": lambda w: w["name"],
    "url": lambda w: w["url"],
    "format": lambda w: w["format"],
    "events": lambda w: ", ".join(w["events"]),
    "active": lambda w: "yes" if w["active"] else "no",
}
_TEST = {
    "taken": lambda t: "yes" if t["success"] else "no",
    "answer": lambda t: t["response_status"],
    "error": lambda t: t["error_message"],
}
_DELIVERY = {
    "id": lambda d: d["id"],
    "event": lambda d: d["event"],
    "status": lambda d: d["status"],
    "attempts": lambda d: d["attempts"],
    "answer": lambda d: d["response_status"],
    "error": lambda d: d["error"],
}


@models.command("history")
@click.argument("name")
@click.option("--limit", default=200, help="How many of the newest changes.")
@connected
def history(name: str, limit: int, home: Path | None, url: str | None, as_json: bool) -> None:
    """Who changed what, and which version was live when; newest first."""
    with client(home, url) as connection:
        found = connection.api.get(f"/v1/models/{name}/history", limit=limit)
    show(found, as_json, _HISTORY)


@models.command("rename")
@click.argument("name")
@click.argument("new_name")
@connected
def rename(name: str, new_name: str, home: Path | None, url: str | None, as_json: bool) -> None:
    """Rename a model that nothing is deployed of."""
    with client(home, url) as connection:
        connection.api.post(f"/v1/models/{name}/rename", {"name": new_name})


@models.command("transfer")
@click.argument("name")
@click.argument("team")
@connected
def transfer(name: str, team: str, home: Path | None, url: str | None, as_json: bool) -> None:
    """Give a model to another team."""
    with client(home, url) as connection:
        connection.api.post(f"/v1/models/{name}/transfer", {"owner_team": team})


@versions.command("promote")
@click.argument("model")
@click.argument("version")
@click.option("--to", "stage", required=True, help="dev, staging, prod, or the team's own.")
@click.option("--replace", is_flag=True, help="Archive the other versions in that stage.")
@connected
def promote(
    model: str,
    version: str,
    stage: str,
    replace: bool,
    home: Path | None,
    url: str | None,
    as_json: bool,
) -> None:
    """Move VERSION into a stage."""
    with client(home, url) as connection:
        path = f"/v1/models/{model}/versions/{version}/stage"
        show(connection.api.put(path, {"stage": stage, "replace": replace}), as_json, _STANDING)


def _lifecycle(name: str, lifecycle: str, text: str) -> None:
    @versions.command(name, help=text)
    @click.argument("model")
    @click.argument("version")
    @click.option("--reason", default="", help="Shown to whoever looks at it.")
    @connected
    def change(
        model: str,
        version: str,
        reason: str,
        home: Path | None,
        url: str | None,
        as_json: bool,
    ) -> None:
        with client(home, url) as connection:
            path = f"/v1/models/{model}/versions/{version}/lifecycle"
            body = {"lifecycle": lifecycle, "reason": reason}
            show(connection.api.put(path, body), as_json, _STANDING)


_lifecycle("deprecate", "deprecated", "Warn whoever looks at VERSION.")
_lifecycle("retire", "retired", "Take VERSION out of ranges, stages and aliases.")
_lifecycle("reactivate", "active", "Take back a deprecation or a retirement.")


@versions.command("users")
@click.argument("model")
@click.argument("version")
@connected
def users(model: str, version: str, home: Path | None, url: str | None, as_json: bool) -> None:
    """Who still uses VERSION."""
    columns = {"kind": lambda u: u["kind"], "name": lambda u: u["name"]}
    with client(home, url) as connection:
        found = connection.api.get(f"/v1/models/{model}/versions/{version}/users")
    show(found, as_json, columns)


@versions.command("change")
@click.argument("model")
@click.argument("version")
@click.option("--semver", help="Another semantic version, while nothing uses it.")
@click.option("--description")
@click.option("--tag", "tags", multiple=True, help="KEY=VALUE, or KEY= to remove; repeatable.")
@connected
def change_version(
    model: str,
    version: str,
    semver: str | None,
    description: str | None,
    tags: tuple[str, ...],
    home: Path | None,
    url: str | None,
    as_json: bool,
) -> None:
    """Change what describes VERSION; what it is never changes."""
    body: dict[str, Any] = {"version": semver, "description": description}
    for tag in tags:
        key, equals, value = tag.partition("=")
        if not equals:
            raise click.BadParameter(f"{tag!r} is not KEY=VALUE")
        body.setdefault("tags", {})[key] = value or None
    with client(home, url) as connection:
        found = connection.api.patch(f"/v1/models/{model}/versions/{version}", body)
    show(found, as_json, _STANDING)


@versions.command("prepare")
@click.argument("model")
@click.argument("version")
@connected
def prepare(model: str, version: str, home: Path | None, url: str | None, as_json: bool) -> None:
    """Make VERSION ready that was only registered, or try again what failed."""
    with client(home, url) as connection:
        connection.prepare(model, version, again=True)
        found: Any = connection.api.get(f"/v1/models/{model}/versions/{version}")
    show(found["version"], as_json, _VERSION)


@versions.command("copy")
@click.argument("model")
@click.argument("version")
@click.option("--to-url", required=True, help="The other modelfleet.")
@click.option("--to-key", envvar="MODELFLEET_TO_KEY", required=True, help="A key of it.")
@click.option("--as", "name", help="The model's name there.")
@click.option("--team", help="Its owner team there; the same if not given.")
@connected
def copy(
    model: str,
    version: str,
    to_url: str,
    to_key: str,
    name: str | None,
    team: str | None,
    home: Path | None,
    url: str | None,
    as_json: bool,
) -> None:
    """Copy VERSION to another modelfleet: its bytes, verified there, not a pointer."""
    from modelfleet.client import Client
    from modelfleet.client.copying import copy_version

    with client(home, url) as source, Client(to_url, key=to_key) as target:
        made = copy_version(source, target, model, version, name=name, team=team)
    show(made, as_json, _VERSION)


@click.command()
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@click.option("--grace-hours", type=float, default=168.0, help="How long nothing named it.")
@connected
def gc(
    dry_run: bool, grace_hours: float, home: Path | None, url: str | None, as_json: bool
) -> None:
    """Remove contents that no version, run or logged model names.

    What is found unnamed is marked; a later run removes what stayed so for the grace period.
    """
    body = {"dry_run": dry_run, "grace_hours": grace_hours}
    with client(home, url) as connection:
        show(connection.api.post("/v1/garbage", body), as_json, _GARBAGE)


@click.group()
def stages() -> None:
    """Stages: where versions stand between development and production."""


@stages.command("list")
@connected
def list_stages(home: Path | None, url: str | None, as_json: bool) -> None:
    """In their order."""
    with client(home, url) as connection:
        show(connection.api.get("/v1/stages"), as_json, _STAGE)


@stages.command("set")
@click.argument("name")
@click.option("--position", type=int, required=True)
@click.option("--protected", is_flag=True, help="Promotion asks for the right to roll out.")
@connected
def set_stage(
    name: str,
    position: int,
    protected: bool,
    home: Path | None,
    url: str | None,
    as_json: bool,
) -> None:
    """Add a stage, or change one."""
    with client(home, url) as connection:
        body = {"position": position, "protected": protected}
        show(connection.api.put(f"/v1/stages/{name}", body), as_json, _STAGE)


@stages.command("delete")
@click.argument("name")
@connected
def delete_stage(name: str, home: Path | None, url: str | None, as_json: bool) -> None:
    """Remove a stage that no version is in."""
    with client(home, url) as connection:
        connection.api.delete(f"/v1/stages/{name}")


@click.group()
def webhooks() -> None:
    """Webhooks: tell others what changes."""


@webhooks.command("list")
@connected
def list_webhooks(home: Path | None, url: str | None, as_json: bool) -> None:
    """Oldest first."""
    with client(home, url) as connection:
        show(connection.api.get("/v1/webhooks"), as_json, _WEBHOOK)


@webhooks.command("create")
@click.argument("name")
@click.argument("target")
@click.option("--event", "events", multiple=True, help="Repeatable.  [*]")
@click.option(
    "--format",
    "format_",
    default="cloudevents",
    type=click.Choice(["cloudevents", "mlflow", "apprise", "github", "gitlab"]),
)
@click.option("--secret", envvar="MODELFLEET_WEBHOOK_SECRET", default="", help="Signs deliveries.")
@connected
def create_webhook(
    name: str,
    target: str,
    events: tuple[str, ...],
    format_: str,
    secret: str,
    home: Path | None,
    url: str | None,
    as_json: bool,
) -> None:
    """Send changes to the address TARGET.

    Events are actions of the audit log (promote-version), `*` for all; in MLflow's format they are
    registered_model.created and the like.

    With apprise, TARGET is one of its URLs (slack://, mailto://, ...), and `default` are the events
    that somebody should hear of. With github or gitlab it is the repository in the API
    (https://api.github.com/repos/OWNER/NAME, https://HOST/api/v4/projects/ID), the secret is a
    token, and gates become statuses of the commits that versions were made of.
    """
    usual = ["default"] if format_ == "apprise" else ["*"]
    body = {"name": name, "url": target, "events": list(events) or usual, "format": format_}
    with client(home, url) as connection:
        show(connection.api.post("/v1/webhooks", body | {"secret": secret}), as_json, _WEBHOOK)


@webhooks.command("delete")
@click.argument("webhook")
@connected
def delete_webhook(webhook: str, home: Path | None, url: str | None, as_json: bool) -> None:
    """Remove a webhook and what is known of its deliveries."""
    with client(home, url) as connection:
        connection.api.delete(f"/v1/webhooks/{webhook}")


@webhooks.command("deliveries")
@click.argument("webhook")
@connected
def deliveries(webhook: str, home: Path | None, url: str | None, as_json: bool) -> None:
    """What was sent, newest first."""
    with client(home, url) as connection:
        show(connection.api.get(f"/v1/webhooks/{webhook}/deliveries"), as_json, _DELIVERY)


@webhooks.command("test")
@click.argument("webhook")
@connected
def test_webhook(webhook: str, home: Path | None, url: str | None, as_json: bool) -> None:
    """Send an example now; exit code 1 if it was not taken."""
    with client(home, url) as connection:
        found: Any = connection.api.post(f"/v1/webhooks/{webhook}/test")
    show(found, as_json, _TEST)
    if not found["success"]:
        raise SystemExit(1)
