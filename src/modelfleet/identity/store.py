"""Tables and SQL of identity. Secrets of links and sessions are kept as sha256 only."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from modelfleet.core.authorization import Grant, Principal, Role
from modelfleet.core.clock import iso
from modelfleet.core.database import Json, metadata

principal = sa.Table(
    "principal",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("name", sa.String(200), nullable=False, unique=True),
    sa.Column("kind", sa.String(20), nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
)

grant = sa.Table(
    "grant",
    metadata,
    sa.Column("principal_id", sa.ForeignKey("principal.id"), primary_key=True),
    sa.Column("role", sa.String(40), primary_key=True),
    sa.Column("team", sa.String(120), primary_key=True),
)

key = sa.Table(
    "key",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("principal_id", sa.ForeignKey("principal.id"), nullable=False),
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("models", Json, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("expires_at", sa.BigInteger, nullable=False),
    sa.Column("revoked_at", sa.BigInteger),
)

login_link = sa.Table(
    "login_link",
    metadata,
    sa.Column("hash", sa.String(64), primary_key=True),
    sa.Column("principal_id", sa.ForeignKey("principal.id"), nullable=False),
    sa.Column("expires_at", sa.BigInteger, nullable=False),
)

session = sa.Table(
    "session",
    metadata,
    sa.Column("hash", sa.String(64), primary_key=True),
    sa.Column("principal_id", sa.ForeignKey("principal.id"), nullable=False),
    sa.Column("csrf", sa.String(64), nullable=False),
    sa.Column("expires_at", sa.BigInteger, nullable=False),
    sa.Column("idle_at", sa.BigInteger, nullable=False),
)


@dataclass(frozen=True)
class PrincipalInfo:
    id: str
    name: str
    kind: str
    """person or service"""
    created_at: str
    grants: tuple[Grant, ...]


@dataclass(frozen=True)
class KeyInfo:
    id: str
    principal: str
    name: str
    models: tuple[str, ...]
    created_at: str
    expires_at: str
    revoked: bool


@dataclass(frozen=True)
class Session:
    principal: Principal
    csrf: str


_GRANTS = (
    sa.select(grant.c.role, grant.c.team)
    .where(grant.c.principal_id == sa.bindparam("principal"))
    .order_by(grant.c.role, grant.c.team)
)


def find_principal(connection: sa.Connection, name_or_id: str) -> PrincipalInfo | None:
    row = connection.execute(
        sa.select(principal).where(
            sa.or_(principal.c.id == name_or_id, principal.c.name == name_or_id)
        )
    ).first()
    if row is None:
        return None
    return PrincipalInfo(
        row.id, row.name, row.kind, iso(row.created_at), grants_of(connection, row.id)
    )


def grants_of(connection: sa.Connection, principal_id: str) -> tuple[Grant, ...]:
    rows = connection.execute(_GRANTS, {"principal": principal_id})
    return tuple(Grant(Role(row.role), row.team) for row in rows)


def list_principals(connection: sa.Connection) -> list[PrincipalInfo]:
    rows = connection.execute(sa.select(principal).order_by(principal.c.name)).all()
    return [
        PrincipalInfo(r.id, r.name, r.kind, iso(r.created_at), grants_of(connection, r.id))
        for r in rows
    ]


def list_keys(connection: sa.Connection) -> list[KeyInfo]:
    rows = connection.execute(
        sa.select(key, principal.c.name.label("principal"))
        .join(principal, principal.c.id == key.c.principal_id)
        .order_by(key.c.created_at.desc())
    )
    return [
        KeyInfo(
            r.id,
            r.principal,
            r.name,
            tuple(r.models),
            iso(r.created_at),
            iso(r.expires_at),
            r.revoked_at is not None,
        )
        for r in rows
    ]
