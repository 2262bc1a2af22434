"""Approvals: what waits for a second person's yes."""

from __future__ import annotations

from pathlib import Path

import click

from modelfleet.cli.base import client, connected, show

_APPROVAL = {
    "id": lambda a: a["id"],
    "subject": lambda a: a["subject"],
    "state": lambda a: a["state"],
    "needs": lambda a: f"{a['quorum']} {a['role']} of {a['team']}",
    "answers": lambda a: ", ".join(f"{x['principal']} {x['decision']}" for x in a["answers"]),
    "asked_by": lambda a: a["requested_by"],
    "expires": lambda a: a["expires_at"],
    "what": lambda a: a["sentence"],
}


@click.group()
def approvals() -> None:
    """Approvals: a second person's yes, bound to what they saw."""


@approvals.command("list")
@click.option("--state", default="waiting", help="waiting, approved, rejected, expired, ... or all")
@click.option("--subject", default="", help="Only subjects that begin so.")
@click.option("--mine", is_flag=True, help="Only what I may answer now.")
@connected
def list_approvals(
    state: str, subject: str, mine: bool, home: Path | None, url: str | None, as_json: bool
) -> None:
    """What waits for a yes; newest first."""
    wanted = "" if state == "all" else state
    with client(home, url) as connection:
        found = connection.api.get("/v1/approvals", state=wanted, subject=subject, mine=mine)
        show(found, as_json, _APPROVAL)


@approvals.command("show")
@click.argument("approval")
@connected
def show_approval(approval: str, home: Path | None, url: str | None, as_json: bool) -> None:
    """One approval with the digests that it is bound to."""
    with client(home, url) as connection:
        show(connection.api.get(f"/v1/approvals/{approval}"), as_json)


@approvals.command("approve")
@click.argument("approval")
@click.option("--reason", default="", help="Why.")
@connected
def approve(approval: str, reason: str, home: Path | None, url: str | None, as_json: bool) -> None:
    """Say yes. Never to what one asked for or made oneself."""
    _answer("approve", approval, reason, home, url, as_json)


@approvals.command("reject")
@click.argument("approval")
@click.option("--reason", default="", help="Why.")
@connected
def reject(approval: str, reason: str, home: Path | None, url: str | None, as_json: bool) -> None:
    """Say no, which ends it."""
    _answer("reject", approval, reason, home, url, as_json)


def _answer(
    verb: str, approval: str, reason: str, home: Path | None, url: str | None, as_json: bool
) -> None:
    with client(home, url) as connection:
        found = connection.api.post(f"/v1/approvals/{approval}/{verb}", {"reason": reason})
        show(found, as_json, _APPROVAL)
