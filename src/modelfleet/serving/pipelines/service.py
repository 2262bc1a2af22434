"""Verbs of pipelines: define, get, list, delete. A pipeline is called like any endpoint."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import msgspec
import sqlalchemy as sa

from modelfleet.core import audit
from modelfleet.core.authorization import SYSTEM, Action, Principal, Resource, authorize
from modelfleet.core.database import Database
from modelfleet.core.errors import Conflict, InvalidInput, NotFound
from modelfleet.core.layout import Layout
from modelfleet.lineage import Node, add_edge, remove_edges
from modelfleet.registry import RegistryService, Version
from modelfleet.registry import store as registry_store
from modelfleet.registry.signature import Signature
from modelfleet.serving.endpoints import Endpoint, EndpointService
from modelfleet.serving.pipelines import counters, definition, store
from modelfleet.serving.pipelines.check import Callee, check
from modelfleet.serving.pipelines.counters import PipelineCounters
from modelfleet.serving.pipelines.definition import Step
from modelfleet.serving.pipelines.kinds import Kind
from modelfleet.serving.pipelines.plan import PipelinePlan
from modelfleet.serving.pipelines.store import Pipeline, Row

STEP_OF = "step-of"
"""lineage: the definition says that a pipeline calls an endpoint"""


class PipelineService:
    def __init__(
        self,
        layout: Layout,
        database: Database,
        registry: RegistryService,
        endpoints: EndpointService,
    ) -> None:
        self._layout = layout
        self._database = database
        self._registry = registry
        self._endpoints = endpoints

    def define(self, actor: Principal, document: object) -> Pipeline:
        """Make a pipeline, or the next revision of it; the same definition changes nothing.

        The caller must be allowed to read the endpoints that it calls. Raises `InvalidInput`
        naming the step that can't work.
        """
        wanted = definition.read(document)
        resource = Resource("pipeline", wanted.name, wanted.team)
        authorize(actor, Action.ROLLOUT, resource)
        with self._database.begin() as connection:
            before = next(iter(store.find(connection, wanted.name)), None)
            if before is None and self._is_endpoint(connection, wanted.name):
                raise Conflict(
                    f"There is already an endpoint {wanted.name}.",
                    hint="Pipelines and endpoints share their names.",
                )
            if before is not None:
                old = Resource("pipeline", wanted.name, before.pipeline.owner_team)
                authorize(actor, Action.ROLLOUT, old)
            plan = check(wanted, self._callees(connection, actor, wanted.steps))
            same = before is not None and (
                before.pipeline.definition == store.plain(wanted)
                and msgspec.structs.replace(before.plan, revision=0, index=0) == plan
            )
            if not same:
                self._put(connection, actor, before, wanted, plan)
            return store.find(connection, wanted.name)[0].pipeline

    def _put(
        self,
        connection: sa.Connection,
        actor: Principal,
        before: Row | None,
        wanted: definition.Definition,
        plan: PipelinePlan,
    ) -> None:
        store.put(connection, before, wanted, plan, actor.name)
        holder, node = f"pipeline/{plan.name}", Node("pipeline", plan.name)
        if before is not None:
            _let_go(connection, before.plan)
            remove_edges(connection, node)
        for step in plan.steps:
            add_edge(connection, Node("endpoint", step.model), STEP_OF, node)
            if step.version_id is not None:
                registry_store.hold(connection, step.version_id, holder)
        details = {
            "revision": before.pipeline.revision + 1 if before else 1,
            "steps": {step.name: step.model for step in plan.steps},
        }
        resource = Resource("pipeline", wanted.name, wanted.team)
        audit.record(connection, actor, "define-pipeline", resource, details)

    def get(self, actor: Principal, name: str) -> Pipeline:
        """With its present `problem`, if a model changed so that it doesn't fit any more."""
        found = self._readable(actor, name).pipeline
        wanted = definition.read(found.definition)
        try:
            with self._database.read() as connection:
                check(wanted, self._callees(connection, SYSTEM, wanted.steps))
        except InvalidInput as error:
            return replace(found, problem=error.message)
        return found

    def list(self, actor: Principal) -> list[Pipeline]:
        with self._database.read() as connection:
            rows = store.find(connection)
        found = [row.pipeline for row in rows]
        return [one for one in found if actor.may(Action.READ, one.owner_team)]

    def delete(self, actor: Principal, name: str) -> None:
        """Stop serving a pipeline. Clients that still call it get 404."""
        with self._database.begin() as connection:
            row = _find(connection, name)
            resource = Resource("pipeline", name, row.pipeline.owner_team)
            authorize(actor, Action.DELETE, resource)
            _let_go(connection, row.plan)
            store.remove(connection, row)
            remove_edges(connection, Node("pipeline", name))
            audit.record(connection, actor, "delete-pipeline", resource)

    def plan(self, actor: Principal, name: str) -> PipelinePlan:
        """The checked form: steps in their order with all types."""
        return self._readable(actor, name).plan

    def statistics(self, actor: Principal, name: str) -> PipelineCounters:
        """What the executors counted since they started."""
        self._readable(actor, name)
        return counters.read(self._layout).get(name, PipelineCounters())

    def with_candidate(
        self, endpoints: Collection[str], candidate: Signature
    ) -> Sequence[tuple[Row, str]]:
        """Pipelines that call one of these endpoints, and why they would be refused if the
        candidate served there; an empty text if they would go on."""
        found: list[tuple[Row, str]] = []
        with self._database.read() as connection:
            for row in store.find(connection):
                wanted = definition.read(row.pipeline.definition)
                mine = {s.name for s in wanted.steps if s.model in endpoints and not s.version}
                if not mine:
                    continue
                problem = ""
                try:
                    known = dict(self._callees(connection, SYSTEM, wanted.steps))
                    for step in mine:
                        known[step] = _callee(candidate)
                    check(wanted, known)
                except InvalidInput as error:
                    problem = error.message
                found.append((row, problem))
        return found

    def _readable(self, actor: Principal, name: str) -> Row:
        with self._database.read() as connection:
            row = _find(connection, name)
        authorize(actor, Action.READ, Resource("pipeline", name, row.pipeline.owner_team))
        return row

    # What steps call ---------------------------------------------------------------------------

    def _is_endpoint(self, connection: sa.Connection, name: str) -> bool:
        try:
            return self._endpoints.find(connection, name).name == name
        except NotFound:
            return False

    def _callees(
        self, connection: sa.Connection, actor: Principal, steps: Sequence[Step]
    ) -> Mapping[str, Callee]:
        found: dict[str, Callee] = {}
        for step in steps:
            try:
                place = self._endpoints.find(connection, step.model)
            except NotFound as error:
                raise InvalidInput(
                    f"Step {step.name}: there is no endpoint {step.model}.",
                    hint="Steps call endpoints of models. See: modelfleet endpoints list",
                ) from error
            authorize(actor, Action.READ, Resource("endpoint", place.name, place.owner_team))
            version = self._version(actor, step, place)
            pinned = step.version is not None
            try:
                found[step.name] = replace(
                    _callee(version.info.signature),
                    version=version.version if pinned else None,
                    version_id=version.id if pinned else None,
                )
            except ValueError as error:
                raise InvalidInput(f"Step {step.name}: {error}.") from error
        return found

    def _version(self, actor: Principal, step: Step, place: Endpoint) -> Version:
        if step.version is not None:
            try:
                pinned = self._registry.get_version(actor, place.model, step.version)
            except NotFound as error:
                raise InvalidInput(f"Step {step.name}: {error.message}") from error
            if pinned.status != "ready":
                raise InvalidInput(f"Step {step.name}: {pinned.name} is {pinned.status}.")
            return pinned
        serving = place.stable_version_id
        if serving is None:
            raise InvalidInput(
                f"Step {step.name}: the endpoint {place.name} serves no version yet.",
                hint=f"Deploy one first: modelfleet deploy {place.model}",
            )
        return self._registry.versions_by_id([serving])[serving]


def _callee(signature: Signature) -> Callee:
    return Callee(
        inputs={t.name: Kind(t.datatype, tuple(t.shape)) for t in signature.inputs},
        outputs={t.name: Kind(t.datatype, tuple(t.shape)) for t in signature.outputs},
    )


def _find(connection: sa.Connection, name: str) -> Row:
    rows = store.find(connection, name)
    if not rows:
        raise NotFound(f"There is no pipeline {name}.", hint="See: modelfleet pipelines list")
    return rows[0]


def _let_go(connection: sa.Connection, plan: PipelinePlan) -> None:
    for step in plan.steps:
        if step.version_id is not None:
            registry_store.let_go(connection, step.version_id, f"pipeline/{plan.name}")
