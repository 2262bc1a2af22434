"""Carrying one object's plan out: everything in one transaction, or nothing.

The verbs of the rooms below do the work, authorize and audit it; they join the transaction
(`Database.together`). What was applied is noted last, in the same transaction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from modelfleet.core import audit
from modelfleet.core.authorization import Action, Principal, Resource, authorize
from modelfleet.core.database import Database
from modelfleet.core.errors import Conflict, Referenced
from modelfleet.delivery import objects, pipelines
from modelfleet.delivery.facts import traffic_of
from modelfleet.delivery.objects import FleetObject
from modelfleet.delivery.specs import spec_of
from modelfleet.delivery.types import CREATE, ObjectPlan
from modelfleet.delivery.wanted import Wanted, place_of
from modelfleet.delivery.world import World
from modelfleet.fleetfile.documents import ModelDocument
from modelfleet.lineage import Declared, Node, declare, withdraw
from modelfleet.lineage.service import Edge
from modelfleet.registry import RegistryService
from modelfleet.rollouts.service import RolloutService
from modelfleet.serving.endpoints import EndpointService
from modelfleet.serving.pipelines.service import PipelineService


@dataclass(frozen=True)
class Rooms:
    """What the work is done by."""

    database: Database
    registry: RegistryService
    endpoints: EndpointService
    rollouts: RolloutService
    pipelines: PipelineService


@dataclass(frozen=True)
class Signed:
    """Under which flag something is applied."""

    fleet: str
    stage: str
    commit: str
    plan: str


@dataclass(frozen=True)
class Done:
    generation: int
    rollout: str | None = None
    version: str = ""


def may_apply(actor: Principal, wanted: Wanted, last: FleetObject | None) -> None:
    """Raises `NotAllowed`. What the rooms below do asks for more, as it is done."""
    kind, name = wanted.key
    teams = {wanted.document.metadata.owner} | ({last.owner_team} if last else set())
    for team in sorted(teams):
        authorize(actor, Action.REGISTER, Resource(kind.lower(), name, team))


def carry_out(
    rooms: Rooms,
    connection: sa.Connection,
    actor: Principal,
    wanted: Wanted,
    plan: ObjectPlan,
    world: World,
    last: FleetObject | None,
    signed: Signed,
    *,
    rollouts: bool,
) -> Done:
    """In the caller's joint transaction, for whoever `may_apply`. rollouts: start those that the
    plan asks for."""
    kind, name = wanted.key
    owner = wanted.document.metadata.owner
    resource = Resource(kind.lower(), name, owner)
    rollout, version, resolved = None, "", dict(last.resolved) if last else {}
    if kind == "Pipeline":
        if plan.counts:
            rooms.pipelines.define(actor, pipelines.definition_of(wanted.plain))
    else:
        _model(rooms, connection, actor, wanted, plan, world, last)
        move = plan.version
        if move is not None and move.after:
            version = move.after
            target = world.resolve(name, move.after)
            resolved = {"version": version, "digest": target.digest if target else ""}
        if move is not None and move.state == "rollout" and rollouts:
            rollout = _roll_out(rooms, actor, wanted, version)
    values = {
        "kind": kind,
        "name": name,
        "fleet": signed.fleet,
        "stage": signed.stage,
        "owner_team": owner,
        "document": wanted.plain,
        "resolved": resolved,
        "commit": signed.commit,
        "actor": actor.name,
        "plan": signed.plan,
    }
    generation = objects.put(connection, last, values)
    details = {
        "generation": generation,
        "fleet": signed.fleet,
        "stage": signed.stage,
        "commit": signed.commit,
        "changes": [f"{one.op} {one.path}" for one in plan.changes[:100]],
        "version": version,
        "rollout": rollout or "",
    }
    audit.record(connection, actor, "apply-document", resource, details)
    return Done(generation, rollout, version)


def _model(
    rooms: Rooms,
    connection: sa.Connection,
    actor: Principal,
    wanted: Wanted,
    plan: ObjectPlan,
    world: World,
    last: FleetObject | None,
) -> None:
    document = wanted.document
    assert isinstance(document, ModelDocument)
    name, was = document.metadata.name, last.document if last else {}
    effects = [one.path for one in plan.changes if not one.recorded_only]
    if plan.action == CREATE:
        _create(rooms, actor, document)
    elif any(path.startswith(("metadata", "serve.isolation")) for path in effects):
        _describe(rooms, actor, document, wanted.plain, was, world)
    endpoint = world.endpoints.get(wanted.place)
    traffic = traffic_of(wanted.plain, was)
    if endpoint is None and wanted.needs_place:
        rooms.endpoints.create_in(connection, actor, wanted.place, name)
    if traffic and (
        endpoint is None or any(p.startswith(("endpoint", "serve.t")) for p in effects)
    ):
        rooms.endpoints.set_traffic(actor, wanted.place, traffic)
    if any(path.startswith(("uses", "consumers")) for path in effects):
        _declare(connection, wanted.plain, was, world)


def _create(rooms: Rooms, actor: Principal, document: ModelDocument) -> None:
    metadata, serve = document.metadata, document.serve
    rooms.registry.create_model(
        actor,
        metadata.name,
        owner_team=metadata.owner,
        business_function=metadata.function,
        criticality=metadata.tier,
        description=metadata.description or "",
        tags=metadata.tags,
        isolation=serve.isolation if serve else None,
    )


def _describe(
    rooms: Rooms,
    actor: Principal,
    document: ModelDocument,
    plain: Mapping[str, Any],
    was: Mapping[str, Any],
    world: World,
) -> None:
    """Set what the file says, take back what it said before, leave everything else."""
    metadata, name = document.metadata, document.metadata.name
    present = world.models[name]
    if present.owner_team != metadata.owner:
        rooms.registry.transfer_model(actor, name, metadata.owner)
    told, before = plain["metadata"], was.get("metadata", {})
    default = {"description": "", "function": "", "tier": "normal"}
    fields = {key: told.get(key, default[key]) for key in default if key in told or key in before}
    isolation = None
    if "isolation" in plain.get("serve", {}) or "isolation" in was.get("serve", {}):
        isolation = plain.get("serve", {}).get("isolation", "shared")
    mine, mine_before = told.get("tags", {}), before.get("tags", {})
    left = {key: value for key, value in present.tags.items() if key not in mine_before}
    tags = {**left, **mine}
    rooms.registry.update_model(
        actor,
        name,
        description=fields.get("description"),
        business_function=fields.get("function"),
        criticality=fields.get("tier"),
        isolation=isolation,
        tags=tags if tags != dict(present.tags) else None,
    )


def _declare(
    connection: sa.Connection, plain: Mapping[str, Any], was: Mapping[str, Any], world: World
) -> None:
    """Edges of `uses` and `consumers`: those of the file, without those it had before."""
    name = plain["metadata"]["name"]
    wanted, before = _edges(name, plain), _edges(name, was)
    for one in wanted:
        declare(connection, Declared(one, ()))
    for one in before:
        present = (
            one.source.name in world.uses.get(name, ())
            if one.destination == Node("model", name)
            else _consumer(one.destination) in world.consumers.get(name, ())
        )
        if one not in wanted and present:
            withdraw(connection, Declared(one, ()))


def _consumer(node: Node) -> str:
    return f"{'app' if node.kind == 'application' else node.kind} {node.name}"


def _edges(name: str, plain: Mapping[str, Any]) -> list[Edge]:
    own = Node("model", name)
    found = [Edge(Node("model", use["model"]), own, "feeds") for use in plain.get("uses", ())]
    for one in plain.get("consumers", ()):
        if "model" in one:
            found.append(Edge(own, Node("model", one["model"]), "feeds"))
        else:
            found.append(Edge(own, Node("application", one["app"]), "consumed-by"))
    return found


def _roll_out(rooms: Rooms, actor: Principal, wanted: Wanted, version: str) -> str:
    document = wanted.document
    assert isinstance(document, ModelDocument)
    spec = spec_of(document)
    name = document.metadata.name
    found = rooms.registry.get_version(actor, name, version)
    if found.status == "registered":
        rooms.registry.prepare(actor, name, version)
    return rooms.rollouts.start(actor, wanted.place, name, version, spec).id


def take_away(
    rooms: Rooms,
    connection: sa.Connection,
    actor: Principal,
    last: FleetObject,
    world: World,
    users: Mapping[str, list[str]],
    signed: Signed,
) -> None:
    """Stop serving what a document asked for; versions stay in the registry.

    users: documents that still take answers of it, by name. Raises `Referenced` for those.
    """
    resource = Resource(last.kind.lower(), last.name, last.owner_team)
    authorize(actor, Action.DELETE, resource)
    using = users.get(last.name, [])
    if last.kind == "Model" and using:
        raise Referenced(
            f"{last.name} is used by {', '.join(using)}.",
            hint="Remove these too, or take them out of `uses` first.",
            holders=using,
        )
    if last.kind == "Pipeline":
        if last.name in world.pipelines:
            rooms.pipelines.delete(actor, last.name)
    else:
        _declare(connection, {"metadata": {"name": last.name}}, last.document, world)
        _stop(rooms, actor, last, world)
    objects.remove(connection, last)
    details = {"generation": last.generation, "fleet": signed.fleet, "commit": signed.commit}
    audit.record(connection, actor, "remove-document", resource, details)


def _stop(rooms: Rooms, actor: Principal, last: FleetObject, world: World) -> None:
    endpoint = world.endpoints.get(place_of(last.document))
    if endpoint is not None and endpoint.model == last.name:
        rollout = world.rollouts.get(endpoint.id)
        if rollout is not None and rollout.active:
            raise Conflict(
                f"{endpoint.name} is being rolled out.",
                hint=f"Wait for it, or: modelfleet rollouts abort {rollout.id}",
                rollout=rollout.id,
            )
        rooms.endpoints.delete(actor, endpoint.name)
    model = world.models.get(last.name)
    if model is not None and not model.versions:
        rooms.registry.delete_model(actor, last.name)
