"""Freeze windows: times in which no rollout starts or advances; rollbacks always may.

They hold for the fleet, for a team or for an endpoint. A role may override them for one rollout,
with a reason. Verbs: `FreezeService.create`, `list`, `delete`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import msgspec
import sqlalchemy as sa

from modelfleet.core import audit
from modelfleet.core.authorization import Action, Principal, Resource, Role, authorize
from modelfleet.core.clock import iso, now_us
from modelfleet.core.database import Database, Json, metadata
from modelfleet.core.errors import Conflict, InvalidInput, NotFound
from modelfleet.core.ids import new_id
from modelfleet.identity.approvals import check_role
from modelfleet.rollouts import windows
from modelfleet.rollouts.plan import Spec
from modelfleet.rollouts.store import Notes
from modelfleet.rollouts.windows import Window, held_until
from modelfleet.serving.endpoints import EndpointService

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,118}[A-Za-z0-9])?")

freeze = sa.Table(
    "freeze",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("name", sa.String(120), nullable=False, unique=True),
    sa.Column("team", sa.String(120), nullable=False),
    sa.Column("endpoint", sa.String(200), nullable=False),
    sa.Column("schedule", Json, nullable=False),
    sa.Column("role", sa.String(40), nullable=False),
    sa.Column("actor", sa.String(200), nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
)


@dataclass(frozen=True)
class Freeze:
    name: str
    team: str
    """`*` is all teams"""
    endpoint: str
    """empty is all endpoints of the team"""
    window: Window
    """its `reason` is told to whoever waits"""
    role: str
    """who may override it"""
    actor: str
    created_at: str
    until: str = ""
    """when it ends, if it holds now"""

    def covers(self, team: str, endpoint: str) -> bool:
        return self.team in ("*", team) and self.endpoint in ("", endpoint)


class FreezeService:
    def __init__(self, database: Database, endpoints: EndpointService) -> None:
        self._database = database
        self._endpoints = endpoints

    def create(
        self,
        actor: Principal,
        name: str,
        window: Window,
        *,
        team: str = "*",
        endpoint: str = "",
        role: str = Role.APPROVER.value,
    ) -> Freeze:
        """Nothing starts or advances in the window; of one endpoint, a team, or the fleet."""
        if not _NAME.fullmatch(name):
            raise InvalidInput(f"{name[:120]!r} can't name a freeze window.")
        if not window.reason.strip():
            raise InvalidInput("A freeze window has a reason, for those who have to wait.")
        check_role(role, 1)
        with self._database.begin() as connection:
            if endpoint:
                team = self._endpoints.find(connection, endpoint).owner_team
            resource = Resource("freeze", name, team)
            authorize(actor, Action.FREEZE, resource)
            if connection.execute(sa.select(freeze.c.id).where(freeze.c.name == name)).first():
                raise Conflict(f"There is already a freeze window {name}.")
            connection.execute(
                sa.insert(freeze).values(
                    id=new_id(),
                    name=name,
                    team=team,
                    endpoint=endpoint,
                    schedule=msgspec.to_builtins(window),
                    role=role,
                    actor=actor.name,
                    created_at=now_us(),
                )
            )
            details = {"window": window.title, "reason": window.reason, "endpoint": endpoint}
            audit.record(connection, actor, "create-freeze", resource, details)
            return next(one for one in current(connection) if one.name == name)

    def list(self, actor: Principal) -> Sequence[Freeze]:
        """By name; `until` says which hold now."""
        with self._database.read() as connection:
            found = current(connection)
        teams = actor.teams(Action.READ)
        if teams is None:
            return found
        return [one for one in found if one.team in teams or (one.team == "*" and teams)]

    def delete(self, actor: Principal, name: str) -> None:
        with self._database.begin() as connection:
            row = connection.execute(sa.select(freeze).where(freeze.c.name == name)).first()
            if row is None:
                raise NotFound(f"There is no freeze window {name[:120]}.")
            resource = Resource("freeze", name, row.team)
            authorize(actor, Action.FREEZE, resource)
            connection.execute(sa.delete(freeze).where(freeze.c.name == name))
            audit.record(connection, actor, "delete-freeze", resource)


def current(connection: sa.Connection) -> Sequence[Freeze]:
    """All of them, by name."""
    now = now_us()
    found = []
    for row in connection.execute(sa.select(freeze).order_by(freeze.c.name)):
        window = msgspec.convert(row.schedule, Window)
        end = held_until(window, now)
        until = "" if end is None else (iso(end) if end < 2**61 else "for ever")
        one = Freeze(
            row.name, row.team, row.endpoint, window, row.role, row.actor, iso(row.created_at)
        )
        found.append(replace(one, until=until))
    return found


def blocked(
    spec: Spec, notes: Notes, known: Sequence[Freeze], team: str, endpoint: str, now: int
) -> str:
    """Why a rollout may not advance now: a freeze window, or its own schedule."""
    held: list[windows.Window] = []
    if not notes.override:
        held = [one.window for one in holding(known, team, endpoint)]
        held += spec.freeze
    return windows.blocked(now, not_before=spec.not_before, windows=spec.windows, freezes=held)


def holding(freezes: Iterable[Freeze], team: str, endpoint: str) -> Sequence[Freeze]:
    """Those that hold now for an endpoint."""
    return [one for one in freezes if one.until and one.covers(team, endpoint)]
