"""Endpoints: the public names that clients call, their routes and traffic policies.

An endpoint's `revision` counts the changes of its routes; `applied_revision` is the newest one
that the gateway runs. Whoever moves traffic writes routes here and waits for the second number.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import msgspec
import sqlalchemy as sa

from modelfleet.core import audit
from modelfleet.core.authorization import Action, Principal, Resource, authorize
from modelfleet.core.clock import iso, now_us
from modelfleet.core.database import Database, Json, metadata
from modelfleet.core.errors import Conflict, InvalidInput, NotFound, Referenced
from modelfleet.core.ids import new_id
from modelfleet.identity.store import find_principal
from modelfleet.lineage import DEPLOYED, Node, add_edge, remove_edges
from modelfleet.registry import store as registry_store
from modelfleet.registry.tables import model, model_version
from modelfleet.registry.types import DEFAULT_NAMESPACE_ID
from modelfleet.serving.pipelines.tables import is_pipeline, users_of
from modelfleet.serving.traffic import Overlay, Rule, Traffic, changed

FULL = 10_000
"""Weights and shadow fractions are basis points."""
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,118}[A-Za-z0-9])?")

endpoint = sa.Table(
    "endpoint",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("name", sa.String(200), nullable=False, unique=True),
    sa.Column("model_id", sa.ForeignKey("model.id"), nullable=False),
    sa.Column("stable_version_id", sa.ForeignKey("model_version.id")),
    sa.Column("previous_version_id", sa.ForeignKey("model_version.id")),
    sa.Column("timeout_ms", sa.Integer, nullable=False),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("applied_revision", sa.Integer, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("traffic", Json, nullable=False, server_default=sa.text("'{}'")),
    sa.Column("overlay", Json, nullable=False, server_default=sa.text("'{}'")),
)

route = sa.Table(
    "route",
    metadata,
    sa.Column("endpoint_id", sa.ForeignKey("endpoint.id"), primary_key=True),
    sa.Column("version_id", sa.ForeignKey("model_version.id"), primary_key=True),
    sa.Column("weight", sa.Integer, nullable=False),
    sa.Column("shadow", sa.Integer, nullable=False),
)


@dataclass(frozen=True)
class Route:
    version_id: str
    weight: int
    """basis points of live traffic; 0 is reachable by pin only"""
    shadow: int = 0
    """basis points of requests that are mirrored to the version; its answers go nowhere"""


@dataclass(frozen=True)
class Endpoint:
    id: str
    name: str
    model: str
    owner_team: str
    stable_version_id: str | None
    previous_version_id: str | None
    timeout_ms: int
    revision: int
    applied_revision: int
    routes: tuple[Route, ...]
    created_at: str
    traffic: Traffic = field(default_factory=Traffic)
    """its own policy, as people set it"""
    overlay: Overlay = field(default_factory=Overlay)
    """what the running rollout adds"""

    @property
    def policy(self) -> Traffic:
        """What the gateway is to do."""
        return self.overlay.over(self.traffic)

    @property
    def version_ids(self) -> frozenset[str]:
        """Versions that requests can reach, by routes or rules."""
        rules = (rule.version_id for rule in self.policy.rules)
        return frozenset((*(one.version_id for one in self.routes), *rules))


@dataclass(frozen=True)
class Place:
    """An endpoint as whoever waits for it needs it."""

    revision: int
    applied_revision: int
    stable_version_id: str | None
    sticky: bool = False
    """clients stick to versions"""


class EndpointService:
    def __init__(self, database: Database, timeout_ms: int) -> None:
        self._database = database
        self._timeout_ms = timeout_ms

    def create(self, actor: Principal, name: str, model_name: str) -> Endpoint:
        """A public name for a model; it answers 404 until a version is rolled out to it."""
        with self._database.begin() as connection:
            return self.create_in(connection, actor, name, model_name)

    def create_in(
        self, connection: sa.Connection, actor: Principal, name: str, model_name: str
    ) -> Endpoint:
        """The same in the caller's transaction."""
        if not _NAME.fullmatch(name):
            raise InvalidInput(
                f"{name[:120]!r} can't name an endpoint.",
                hint="Use 1 to 120 letters, digits, dots, hyphens and underscores.",
            )
        owner = registry_store.find_model(connection, DEFAULT_NAMESPACE_ID, model_name)
        if owner is None:
            raise NotFound(f"There is no model {model_name}.")
        resource = Resource("endpoint", name, owner.owner_team)
        authorize(actor, Action.ROLLOUT, resource)
        if self._find(connection, endpoint.c.name == name):
            raise Conflict(f"There is already an endpoint {name}.")
        if is_pipeline(connection, name):
            raise Conflict(f"There is already a pipeline {name}.")
        connection.execute(
            sa.insert(endpoint).values(
                id=new_id(),
                name=name,
                model_id=owner.id,
                timeout_ms=self._timeout_ms,
                revision=0,
                applied_revision=0,
                created_at=now_us(),
            )
        )
        add_edge(connection, Node("model", owner.name), "served-by", Node("endpoint", name))
        audit.record(connection, actor, "create-endpoint", resource, {"model": owner.name})
        return self.find(connection, name)

    def get(self, actor: Principal, name: str) -> Endpoint:
        with self._database.read() as connection:
            found = self.find(connection, name)
        authorize(actor, Action.READ, Resource("endpoint", name, found.owner_team))
        return found

    def list(self, actor: Principal) -> list[Endpoint]:
        return [one for one in self.all() if actor.may(Action.READ, one.owner_team)]

    def all(self) -> Sequence[Endpoint]:
        """For the platform's own rooms: no check of who asks."""
        with self._database.read() as connection:
            return self._find(connection, sa.true())

    def delete(self, actor: Principal, name: str) -> None:
        """Stop serving a name. Clients that still call it get 404."""
        with self._database.begin() as connection:
            found = self.find(connection, name)
            resource = Resource("endpoint", name, found.owner_team)
            authorize(actor, Action.DELETE, resource)
            if users := users_of(connection, found.name):
                raise Referenced(f"The pipeline {users[0]} calls the endpoint {found.name}.")
            _let_go(connection, found)
            connection.execute(sa.delete(route).where(route.c.endpoint_id == found.id))
            connection.execute(sa.delete(endpoint).where(endpoint.c.id == found.id))
            remove_edges(connection, Node("endpoint", name))
            audit.record(connection, actor, "delete-endpoint", resource)

    def set_traffic(self, actor: Principal, name: str, changes: Mapping[str, object]) -> Endpoint:
        """Change fields of the policy (see `Traffic`); what is not named stays.

        Rules hold their versions: these stay loaded, whatever rollouts do to the weights.
        """
        with self._database.begin() as connection:
            found = self.find(connection, name)
            resource = Resource("endpoint", found.name, found.owner_team)
            authorize(actor, Action.ROLLOUT, resource)
            wanted = changed(found.traffic, changes)
            rules = tuple(_resolve(connection, found, rule) for rule in wanted.rules)
            wanted = replace(wanted, rules=rules)
            if (wanted.per_try_timeout_ms or 0) >= (wanted.timeout_ms or found.timeout_ms):
                raise InvalidInput(
                    f"per_try_timeout_ms must be shorter than the endpoint's "
                    f"{wanted.timeout_ms or found.timeout_ms} ms."
                )
            if wanted == found.traffic:
                return found
            plain = msgspec.to_builtins(wanted)
            _let_go(connection, found)
            connection.execute(
                sa.update(endpoint)
                .where(endpoint.c.id == found.id)
                .values(traffic=plain, revision=found.revision + 1)
            )
            after = self.find(connection, found.id)
            _hold(connection, after)
            audit.record(connection, actor, "set-traffic", resource, dict(changes))
            return after

    # Moving traffic: in the transaction of whoever decides it ----------------------------------

    def set_routes(
        self,
        connection: sa.Connection,
        endpoint_id: str,
        routes: Sequence[Route],
        *,
        stable_version_id: str | None,
        overlay: Overlay | None = None,
    ) -> int:
        """Replace the routes and return the endpoint's revision; the same routes keep it.

        Another `stable_version_id` promotes it; the one before stays referenced for a rollback.
        overlay: added to the endpoint's policy until routes are set again; rules may lack their
        `version_id` and `caller_id`.
        """
        before = self.find(connection, endpoint_id)
        added = overlay or Overlay()
        added = replace(
            added, rules=tuple(_resolve(connection, before, one) for one in added.rules)
        )
        _check(routes)
        stable, previous = before.stable_version_id, before.previous_version_id
        if stable_version_id != stable:
            stable, previous = stable_version_id, stable
        elif set(routes) == set(before.routes) and added == before.overlay:
            return before.revision
        _let_go(connection, before)
        connection.execute(sa.delete(route).where(route.c.endpoint_id == before.id))
        for one in routes:
            connection.execute(
                sa.insert(route).values(
                    endpoint_id=before.id,
                    version_id=one.version_id,
                    weight=one.weight,
                    shadow=one.shadow,
                )
            )
            version = _version_name(connection, one.version_id)
            add_edge(connection, Node("version", version), DEPLOYED, Node("endpoint", before.name))
        connection.execute(
            sa.update(endpoint)
            .where(endpoint.c.id == before.id)
            .values(
                revision=before.revision + 1,
                stable_version_id=stable,
                previous_version_id=previous,
                overlay=msgspec.to_builtins(added) if overlay else {},
            )
        )
        _hold(connection, self.find(connection, before.id))
        return before.revision + 1

    def mark_applied(self, revisions: Mapping[str, int]) -> None:
        """Note which revision of each endpoint (by id) the gateway runs."""
        if not revisions:
            return
        with self._database.begin() as connection:
            for endpoint_id, revision in revisions.items():
                connection.execute(
                    sa.update(endpoint)
                    .where(endpoint.c.id == endpoint_id)
                    .values(applied_revision=revision)
                )

    def places(
        self, connection: sa.Connection, endpoint_id: str | None = None
    ) -> Mapping[str, Place]:
        """By id; of all endpoints, or of one."""
        query = sa.select(
            endpoint.c.id,
            endpoint.c.revision,
            endpoint.c.applied_revision,
            endpoint.c.stable_version_id,
            endpoint.c.traffic,
            endpoint.c.overlay,
        )
        if endpoint_id is not None:
            query = query.where(endpoint.c.id == endpoint_id)
        return {
            r.id: Place(
                r.revision,
                r.applied_revision,
                r.stable_version_id,
                bool(r.overlay.get("sticky") or r.traffic.get("sticky")),
            )
            for r in connection.execute(query)
        }

    # Finding -----------------------------------------------------------------------------------

    def find(self, connection: sa.Connection, name_or_id: str) -> Endpoint:
        """By name or id, in the caller's transaction. Raises `NotFound`."""
        found = self._find(
            connection, sa.or_(endpoint.c.name == name_or_id, endpoint.c.id == name_or_id)
        )
        if not found:
            raise NotFound(
                f"There is no endpoint {name_or_id}.", hint="See: modelfleet endpoints list"
            )
        return found[0]

    def named(self, connection: sa.Connection, names: Sequence[str]) -> Sequence[Endpoint]:
        """Those that there are of these, in the caller's transaction; no check of who asks."""
        if len(names) == 1:
            return self._find(connection, endpoint.c.name == names[0])
        wanted = set(names)
        return [one for one in self._find(connection, sa.true()) if one.name in wanted]

    def _find(
        self, connection: sa.Connection, condition: sa.ColumnElement[bool]
    ) -> Sequence[Endpoint]:
        rows = connection.execute(
            sa.select(endpoint, model.c.name.label("model"), model.c.owner_team)
            .join(model, model.c.id == endpoint.c.model_id)
            .where(condition)
            .order_by(endpoint.c.name)
        ).all()
        query = sa.select(route).order_by(route.c.weight.desc(), route.c.version_id)
        if len(rows) == 1:
            query = query.where(route.c.endpoint_id == rows[0].id)
        routes: dict[str, list[Route]] = {}
        for r in connection.execute(query):
            routes.setdefault(r.endpoint_id, []).append(Route(r.version_id, r.weight, r.shadow))
        return [
            Endpoint(
                id=r.id,
                name=r.name,
                model=r.model,
                owner_team=r.owner_team,
                stable_version_id=r.stable_version_id,
                previous_version_id=r.previous_version_id,
                timeout_ms=r.timeout_ms,
                revision=r.revision,
                applied_revision=r.applied_revision,
                routes=tuple(routes.get(r.id, ())),
                created_at=iso(r.created_at),
                traffic=msgspec.convert(r.traffic, Traffic) if r.traffic else Traffic(),
                overlay=msgspec.convert(r.overlay, Overlay) if r.overlay else Overlay(),
            )
            for r in rows
        ]


def _held(found: Endpoint) -> frozenset[str]:
    kept = (found.stable_version_id, found.previous_version_id)
    return found.version_ids | {v for v in kept if v}


def _version_name(connection: sa.Connection, version_id: str) -> str:
    row = connection.execute(
        sa.select(model.c.name, model_version.c.semver)
        .join(model_version, model_version.c.model_id == model.c.id)
        .where(model_version.c.id == version_id)
    ).one()
    return f"{row.name}@{row.semver}"


def _hold(connection: sa.Connection, found: Endpoint) -> None:
    for version_id in _held(found):
        registry_store.hold(connection, version_id, f"endpoint/{found.name}")


def _let_go(connection: sa.Connection, found: Endpoint) -> None:
    for version_id in _held(found):
        registry_store.let_go(connection, version_id, f"endpoint/{found.name}")


def _resolve(connection: sa.Connection, place: Endpoint, rule: Rule) -> Rule:
    """The rule with the ids of what it names."""
    named = model_version.c.semver == rule.version
    if rule.version.isascii() and rule.version.isdigit() and len(rule.version) < 10:
        named = sa.or_(named, model_version.c.sequence == int(rule.version))
    own = sa.and_(model.c.namespace_id == DEFAULT_NAMESPACE_ID, model.c.name == place.model)
    found = registry_store.versions(connection, sa.and_(own, named), 1)
    if not found:
        raise InvalidInput(
            f"{place.model} has no version {rule.version[:80]}.",
            hint="A rule names a semantic version or a sequence number, which never move.",
        )
    if found[0].status != "ready":
        raise InvalidInput(f"{found[0].name} is {found[0].status}, not ready.")
    caller_id = ""
    if rule.caller:
        principal = find_principal(connection, rule.caller)
        if principal is None:
            raise InvalidInput(f"There is no principal {rule.caller[:120]}.")
        rule, caller_id = replace(rule, caller=principal.name), principal.id
    return replace(rule, version=found[0].version, version_id=found[0].id, caller_id=caller_id)


def _check(routes: Sequence[Route]) -> None:
    if len({one.version_id for one in routes}) != len(routes):
        raise InvalidInput("A version has two routes.")
    if any(not 0 <= part <= FULL for one in routes for part in (one.weight, one.shadow)):
        raise InvalidInput("Weights and fractions lie between 0 and 10000 basis points.")
    if routes and sum(one.weight for one in routes) != FULL:
        raise InvalidInput("The weights of an endpoint add up to 10000 basis points.")
