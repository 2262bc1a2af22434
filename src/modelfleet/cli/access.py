"""Principals, grants, keys, login links, the audit log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from modelfleet.cli.base import client, connected, show

_ROLES = ["viewer", "data-scientist", "deployer", "approver", "release-manager", "admin"]
_PRINCIPAL = {
    "name": lambda p: p["name"],
    "kind": lambda p: p["kind"],
    "grants": lambda p: [f"{g['role']} of {g['team']}" for g in p["grants"]],
    "id": lambda p: p["id"],
}
_KEY = {
    "id": lambda k: k["id"],
    "principal": lambda k: k["principal"],
    "name": lambda k: k["name"],
    "models": lambda k: k["models"],
    "expires": lambda k: k["expires_at"],
    "revoked": lambda k: k["revoked"],
}
_EVENT = {
    "number": lambda e: e["sequence"],
    "at": lambda e: e["at"],
    "who": lambda e: e["principal"],
    "what": lambda e: e["action"],
    "on": lambda e: f"{e['kind']}/{e['resource']}",
    "details": lambda e: e["details"],
}


@click.command()
@connected
def login(home: Path | None, url: str | None, as_json: bool) -> None:
    """A link that logs you into the pages, once, within ten minutes."""
    with client(home, url) as connection:
        found: Any = connection.api.post("/v1/login-links")
        link = f"{connection.api.url}{found['path']}"
    show({"url": link}, as_json, {"open": lambda row: row["url"]})


@click.group()
def principals() -> None:
    """People and services."""


@principals.command("list")
@connected
def list_principals(home: Path | None, url: str | None, as_json: bool) -> None:
    """All principals with their grants."""
    with client(home, url) as connection:
        show(connection.api.get("/v1/principals"), as_json, _PRINCIPAL)


@principals.command("create")
@click.argument("name")
@click.option("--kind", default="service", type=click.Choice(["person", "service"]))
@connected
def create_principal(
    name: str, kind: str, home: Path | None, url: str | None, as_json: bool
) -> None:
    """Create a principal; it may do nothing until it is granted a role."""
    with client(home, url) as connection:
        found = connection.api.post("/v1/principals", {"name": name, "kind": kind})
        show(found, as_json, _PRINCIPAL)


@click.group()
def grants() -> None:
    """Roles of principals, for one team or all (*)."""


@grants.command("add")
@click.argument("principal")
@click.argument("role", type=click.Choice(_ROLES))
@click.option("--team", default="*", help="For the models of this team only.")
@connected
def add_grant(
    principal: str, role: str, team: str, home: Path | None, url: str | None, as_json: bool
) -> None:
    """Grant ROLE to PRINCIPAL."""
    with client(home, url) as connection:
        body = {"role": role, "team": team}
        show(connection.api.post(f"/v1/principals/{principal}/grants", body), as_json, _PRINCIPAL)


@grants.command("remove")
@click.argument("principal")
@click.argument("role", type=click.Choice(_ROLES))
@click.option("--team", default="*")
@connected
def remove_grant(
    principal: str, role: str, team: str, home: Path | None, url: str | None, as_json: bool
) -> None:
    """Take ROLE from PRINCIPAL."""
    with client(home, url) as connection:
        body = {"role": role, "team": team}
        show(connection.api.delete(f"/v1/principals/{principal}/grants", body), as_json, _PRINCIPAL)


@click.group()
def keys() -> None:
    """Keys for the API and for predictions."""


@keys.command("list")
@connected
def list_keys(home: Path | None, url: str | None, as_json: bool) -> None:
    """All keys, without their secrets."""
    with client(home, url) as connection:
        show(connection.api.get("/v1/keys"), as_json, _KEY)


@keys.command("create")
@click.argument("principal")
@click.option("--name", default="", help="What it is for.")
@click.option(
    "--model",
    "models",
    multiple=True,
    help="Endpoint it may call, * for all; NAME:ACTION allows only infer, metadata or feedback.",
)
@click.option("--days", default=90.0, help="How long it counts.")
@click.option(
    "--priority",
    default="",
    type=click.Choice(["", "high", "normal", "low"]),
    help="Of its requests; else the endpoint's.",
)
@connected
def create_key(
    principal: str,
    name: str,
    models: tuple[str, ...],
    days: float,
    priority: str,
    home: Path | None,
    url: str | None,
    as_json: bool,
) -> None:
    """A new key for PRINCIPAL. It is shown once."""
    body: dict[str, object] = {"principal": principal, "name": name, "models": list(models)}
    body["priority"] = priority
    with client(home, url) as connection:
        found: Any = connection.api.post("/v1/keys", body | {"seconds": round(days * 86_400)})
    if as_json:
        show(found, True)
        return
    click.echo("Keep it: it is not shown again.", err=True)
    click.echo(found["key"])


@keys.command("revoke")
@click.argument("key")
@connected
def revoke_key(key: str, home: Path | None, url: str | None, as_json: bool) -> None:
    """The gateway refuses it within seconds."""
    with client(home, url) as connection:
        connection.api.delete(f"/v1/keys/{key}")


@click.group()
def audit() -> None:
    """Every change, who made it and when."""


@audit.command("list")
@click.option("--limit", default=50, help="How many, newest first.")
@connected
def list_audit(limit: int, home: Path | None, url: str | None, as_json: bool) -> None:
    """Newest first."""
    with client(home, url) as connection:
        show(connection.api.get("/v1/audit", limit=limit), as_json, _EVENT)


@audit.command("verify")
@connected
def verify_audit(home: Path | None, url: str | None, as_json: bool) -> None:
    """Check the whole chain of events; exit code 1 if it was tampered with."""
    with client(home, url) as connection:
        found: Any = connection.api.get("/v1/audit/verify")
    columns = {"intact": lambda f: f["intact"], "first broken": lambda f: f["first_broken"]}
    show(found, as_json, columns)
    if not found["intact"]:
        raise SystemExit(1)
