"""Verbs of identity. Each mutation is authorized and audited in its own transaction."""

from __future__ import annotations

import secrets
from collections.abc import Collection
from dataclasses import replace

import sqlalchemy as sa

from modelfleet.core import audit
from modelfleet.core.authorization import (
    SYSTEM,
    Action,
    Grant,
    Principal,
    Resource,
    Role,
    authorize,
)
from modelfleet.core.claims import ACTIONS, PRIORITIES, check_scopes, covers
from modelfleet.core.clock import iso, now_us
from modelfleet.core.database import Database
from modelfleet.core.errors import Conflict, InvalidInput, NotFound, Unauthenticated
from modelfleet.core.files import write_atomically
from modelfleet.core.ids import digest, new_id
from modelfleet.core.keys import SigningKey
from modelfleet.core.layout import Layout
from modelfleet.identity import store
from modelfleet.identity.store import KeyInfo, PrincipalInfo, Session

_SECOND = 1_000_000
LINK_SECONDS = 600
SESSION_SECONDS = 12 * 3600
IDLE_SECONDS = 30 * 60
ADMIN_KEY_DAYS = 365


_HOLDER = sa.select(store.principal.c.id, store.principal.c.name, store.key.c.revoked_at).where(
    store.key.c.id == sa.bindparam("key"),
    store.key.c.principal_id == store.principal.c.id,
    store.principal.c.id == sa.bindparam("principal"),
)


class IdentityService:
    def __init__(self, database: Database, signing_key: SigningKey) -> None:
        self._database = database
        self._signing_key = signing_key

    # Keys -----------------------------------------------------------------------------------

    def authenticate(self, text: str, correlation_id: str = "") -> Principal:
        """The principal behind a key. Raises `Unauthenticated`."""
        token = self._signing_key.verify(text)
        with self._database.read() as connection:
            known = {"key": token.id, "principal": token.principal_id}
            row = connection.execute(_HOLDER, known).first()
            if row is None or row.revoked_at is not None:
                raise Unauthenticated("The key was revoked.")
            grants = store.grants_of(connection, row.id)
        return Principal(row.id, row.name, grants, correlation_id)

    def create_key(
        self,
        actor: Principal,
        principal: str,
        *,
        name: str = "",
        models: tuple[str, ...] = (),
        seconds: int = 90 * 86_400,
        priority: str = "",
    ) -> tuple[str, KeyInfo]:
        """A key for `principal`; it is shown once and not kept.

        `models` are its scopes: the endpoints that it may call, each with all that can be done
        there or one action (`churn:infer`); `*` is all endpoints. The key also says the teams that
        the principal has grants for now. `priority` of its requests: the endpoint's, if empty.
        """
        check_scopes(models)
        if priority and priority not in PRIORITIES:
            raise InvalidInput(f"A priority is one of {', '.join(PRIORITIES)}.")
        if not 1 <= seconds <= ADMIN_KEY_DAYS * 86_400:
            raise InvalidInput("A key lives between one second and 365 days.")
        with self._database.begin() as connection:
            owner = self._principal(connection, principal)
            reach = self._models_of(connection, actor)
            own = owner.id == actor.id and all(covers(reach, scope) for scope in models)
            if not own or priority == "high":
                authorize(actor, Action.MANAGE_ACCESS, Resource("principal", owner.name))
            text, token = self._signing_key.issue(
                owner.id,
                name or owner.name,
                models=models,
                seconds=seconds,
                teams=tuple({grant.team for grant in owner.grants} - {"*"}),
                priority=priority,
            )
            connection.execute(
                sa.insert(store.key).values(
                    id=token.id,
                    principal_id=owner.id,
                    name=name or owner.name,
                    models=list(models),
                    created_at=now_us(),
                    expires_at=token.expires_at * _SECOND,
                )
            )
            resource = Resource("key", token.id)
            details = {"principal": owner.name, "models": list(models), "seconds": seconds}
            details |= {"priority": priority} if priority else {}
            audit.record(connection, actor, "create-key", resource, details)
            info = next(k for k in store.list_keys(connection) if k.id == token.id)
        return text, info

    def _models_of(self, connection: sa.Connection, actor: Principal) -> list[str]:
        rows = connection.execute(
            sa.select(store.key.c.models).where(
                store.key.c.principal_id == actor.id,
                store.key.c.revoked_at.is_(None),
                store.key.c.expires_at > now_us(),
            )
        )
        return [name for row in rows for name in row.models]

    def revoke_key(self, actor: Principal, key_id: str) -> None:
        with self._database.begin() as connection:
            row = connection.execute(sa.select(store.key).where(store.key.c.id == key_id)).first()
            if row is None:
                raise NotFound(f"There is no key {key_id}.")
            if row.principal_id != actor.id:
                authorize(actor, Action.MANAGE_ACCESS, Resource("key", key_id))
            connection.execute(
                sa.update(store.key)
                .where(store.key.c.id == key_id, store.key.c.revoked_at.is_(None))
                .values(revoked_at=now_us())
            )
            audit.record(connection, actor, "revoke-key", Resource("key", key_id))

    def list_keys(self, actor: Principal) -> list[KeyInfo]:
        authorize(actor, Action.MANAGE_ACCESS, Resource("key", "*"))
        with self._database.read() as connection:
            return store.list_keys(connection)

    def keys_for(self, actor: Principal, endpoint: str) -> list[KeyInfo]:
        """Keys that count now and may do something at `endpoint`."""
        now = iso(now_us())
        return [
            one
            for one in self.list_keys(actor)
            if not one.revoked
            and one.expires_at > now
            and any(covers(one.models, f"{endpoint}:{action}") for action in ACTIONS)
        ]

    def revoked(self) -> tuple[str, ...]:
        """Ids of revoked keys that have not expired yet: what the gateway must refuse."""
        with self._database.read() as connection:
            rows = connection.execute(
                sa.select(store.key.c.id)
                .where(store.key.c.revoked_at.is_not(None), store.key.c.expires_at > now_us())
                .order_by(store.key.c.id)
            )
            return tuple(row.id for row in rows)

    # Principals and grants ---------------------------------------------------------------------

    def create_principal(self, actor: Principal, name: str, kind: str) -> PrincipalInfo:
        authorize(actor, Action.MANAGE_ACCESS, Resource("principal", name))
        if kind not in ("person", "service"):
            raise InvalidInput(f"A principal is a person or a service, not {kind!r}.")
        if not name or len(name) > 200:
            raise InvalidInput("A principal's name has 1 to 200 characters.")
        with self._database.begin() as connection:
            if store.find_principal(connection, name) is not None:
                raise Conflict(f"There is already a principal {name}.")
            connection.execute(
                sa.insert(store.principal).values(
                    id=new_id(), name=name, kind=kind, created_at=now_us()
                )
            )
            resource = Resource("principal", name)
            audit.record(connection, actor, "create-principal", resource, {"kind": kind})
            return self._principal(connection, name)

    def list_principals(self, actor: Principal) -> list[PrincipalInfo]:
        authorize(actor, Action.MANAGE_ACCESS, Resource("principal", "*"))
        with self._database.read() as connection:
            return store.list_principals(connection)

    def find_principal(self, actor: Principal, name: str) -> PrincipalInfo:
        """By name or id. Whoever manages access may ask for anybody, others for themselves."""
        if name not in (actor.id, actor.name):
            authorize(actor, Action.MANAGE_ACCESS, Resource("principal", name))
        with self._database.read() as connection:
            return self._principal(connection, name)

    def knows(self, name: str) -> bool:
        """Is there a principal of that name? For the platform's own rooms: no check of who asks."""
        with self._database.read() as connection:
            found = store.find_principal(connection, name)
        return found is not None and found.name == name

    def names(self, ids: Collection[str]) -> dict[str, str]:
        """Names of principals by id, for whoever may see what they did."""
        with self._database.read() as connection:
            rows = connection.execute(
                sa.select(store.principal.c.id, store.principal.c.name).where(
                    store.principal.c.id.in_(ids)
                )
            )
            return {row.id: row.name for row in rows}

    def add_grant(self, actor: Principal, principal: str, grant: Grant) -> PrincipalInfo:
        authorize(actor, Action.MANAGE_ACCESS, Resource("principal", principal))
        with self._database.begin() as connection:
            found = self._principal(connection, principal)
            if grant not in found.grants:
                connection.execute(
                    sa.insert(store.grant).values(
                        principal_id=found.id, role=grant.role.value, team=grant.team
                    )
                )
                details = {"role": grant.role.value, "team": grant.team}
                resource = Resource("principal", found.name)
                audit.record(connection, actor, "add-grant", resource, details)
            return self._principal(connection, found.id)

    def remove_grant(self, actor: Principal, principal: str, grant: Grant) -> PrincipalInfo:
        authorize(actor, Action.MANAGE_ACCESS, Resource("principal", principal))
        with self._database.begin() as connection:
            found = self._principal(connection, principal)
            if grant not in found.grants:
                raise NotFound(f"{found.name} has no grant {grant.role} on {grant.team}.")
            table = store.grant
            connection.execute(
                sa.delete(table).where(
                    table.c.principal_id == found.id,
                    table.c.role == grant.role.value,
                    table.c.team == grant.team,
                )
            )
            if grant == Grant(Role.ADMIN):
                self._refuse_lockout(connection)
            details = {"role": grant.role.value, "team": grant.team}
            resource = Resource("principal", found.name)
            audit.record(connection, actor, "remove-grant", resource, details)
            return self._principal(connection, found.id)

    def _refuse_lockout(self, connection: sa.Connection) -> None:
        admins = connection.execute(
            sa.select(sa.func.count()).where(
                store.grant.c.role == Role.ADMIN.value, store.grant.c.team == "*"
            )
        ).scalar_one()
        if admins == 0:
            raise Conflict("The last admin of all teams can't be removed.")

    def _principal(self, connection: sa.Connection, name_or_id: str) -> PrincipalInfo:
        found = store.find_principal(connection, name_or_id)
        if found is None:
            raise NotFound(f"There is no principal {name_or_id}.")
        return found

    # Pages: login links and sessions -----------------------------------------------------------

    def create_login_link(self, actor: Principal) -> str:
        """A secret that logs `actor` into the pages, once, within ten minutes."""
        secret = secrets.token_urlsafe(32)
        with self._database.begin() as connection:
            connection.execute(
                sa.insert(store.login_link).values(
                    hash=digest(secret.encode()),
                    principal_id=actor.id,
                    expires_at=now_us() + LINK_SECONDS * _SECOND,
                )
            )
            resource = Resource("principal", actor.name)
            audit.record(connection, actor, "create-login-link", resource)
        return secret

    def redeem_login_link(self, secret: str) -> str:
        """Use up a login link; return the secret of a new session."""
        with self._database.begin() as connection:
            link = store.login_link
            found = connection.execute(
                sa.select(link).where(link.c.hash == digest(secret.encode()))
            ).first()
            if found is None or found.expires_at < now_us():
                raise Unauthenticated(
                    "This login link was used already or is too old.",
                    hint="Get a new one: modelfleet login",
                )
            connection.execute(sa.delete(link).where(link.c.hash == found.hash))
            return self._open_session(connection, found.principal_id)

    def log_in(self, key_text: str) -> str:
        """A session for the holder of a key."""
        principal = self.authenticate(key_text)
        with self._database.begin() as connection:
            return self._open_session(connection, principal.id)

    def _open_session(self, connection: sa.Connection, principal_id: str) -> str:
        secret, now = secrets.token_urlsafe(32), now_us()
        connection.execute(
            sa.insert(store.session).values(
                hash=digest(secret.encode()),
                principal_id=principal_id,
                csrf=secrets.token_urlsafe(24),
                expires_at=now + SESSION_SECONDS * _SECOND,
                idle_at=now + IDLE_SECONDS * _SECOND,
            )
        )
        owner = self._principal(connection, principal_id)
        who = Principal(owner.id, owner.name)
        audit.record(connection, who, "log-in", Resource("principal", owner.name))
        return secret

    def session(self, secret: str, correlation_id: str = "") -> Session:
        """The session behind a cookie. Raises `Unauthenticated`."""
        table, now = store.session, now_us()
        with self._database.read() as connection:
            row = connection.execute(
                sa.select(table).where(table.c.hash == digest(secret.encode()))
            ).first()
            if row is None or row.expires_at < now or row.idle_at < now:
                raise Unauthenticated("The session has ended.", hint="Log in again.")
            owner = self._principal(connection, row.principal_id)
        if row.idle_at - now < (IDLE_SECONDS - 60) * _SECOND:
            with self._database.begin() as connection:
                connection.execute(
                    sa.update(table)
                    .where(table.c.hash == row.hash)
                    .values(idle_at=now + IDLE_SECONDS * _SECOND)
                )
        return Session(Principal(owner.id, owner.name, owner.grants, correlation_id), row.csrf)

    def end_session(self, secret: str) -> None:
        with self._database.begin() as connection:
            connection.execute(
                sa.delete(store.session).where(store.session.c.hash == digest(secret.encode()))
            )

    # First start -------------------------------------------------------------------------------

    def bootstrap(self, layout: Layout) -> bool:
        """Create the first admin and write its key to HOME/admin.key. True if that was needed."""
        with self._database.begin() as connection:
            if store.find_principal(connection, "admin") is None:
                admin_id = new_id()
                connection.execute(
                    sa.insert(store.principal).values(
                        id=admin_id, name="admin", kind="person", created_at=now_us()
                    )
                )
                connection.execute(
                    sa.insert(store.grant).values(
                        principal_id=admin_id, role=Role.ADMIN.value, team="*"
                    )
                )
                resource = Resource("principal", "admin")
                audit.record(connection, SYSTEM, "create-principal", resource)
        if self._is_ours(layout):
            return False
        text, _ = self.create_key(
            replace(SYSTEM, name="first start"),
            "admin",
            name="admin.key",
            models=("*",),
            seconds=ADMIN_KEY_DAYS * 86_400,
        )
        write_atomically(layout.admin_key, text.encode() + b"\n", 0o600)
        return True

    def _is_ours(self, layout: Layout) -> bool:
        """Whether HOME/admin.key is a key of this database that has not expired.

        One that was revoked is: whoever did that doesn't want it back at the next start.
        """
        try:
            token = self._signing_key.verify(layout.admin_key.read_text("utf-8").strip())
        except (FileNotFoundError, UnicodeDecodeError, Unauthenticated):
            return False
        with self._database.read() as connection:
            known = connection.execute(sa.select(store.key.c.id).where(store.key.c.id == token.id))
            return known.first() is not None
