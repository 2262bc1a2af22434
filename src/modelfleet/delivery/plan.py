"""What applying documents would do, object by object. Reads alone; decides nothing in secret."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from modelfleet.core.errors import InvalidInput
from modelfleet.delivery import facts, pipelines
from modelfleet.delivery.diff import Change, Difference, Flat, compare, flat
from modelfleet.delivery.objects import FleetObject, Key
from modelfleet.delivery.samples import Expected, expected
from modelfleet.delivery.specs import spec_of
from modelfleet.delivery.types import (
    CREATE,
    NONE,
    RECORD,
    UNMADE,
    UPDATE,
    ObjectPlan,
    VersionMove,
)
from modelfleet.delivery.wanted import Wanted, place_of
from modelfleet.delivery.words import kept, proof_warnings, shape
from modelfleet.delivery.world import RolloutRow, VersionRow, World
from modelfleet.fleetfile.documents import ModelDocument, PipelineDocument

_STEERING = ("source", "rollout", "gates", "approvals")
"""sections whose change lets a version that was rolled back be tried again"""


@dataclass(frozen=True)
class Planner:
    """Everything that plans are made from."""

    world: World
    last: Mapping[Key, FleetObject]
    fleet: str
    replicas: int
    """workers of a pool"""
    known: frozenset[Key] = frozenset()
    """documents that are applied together"""
    rates: Mapping[int, float] = field(default_factory=dict)
    """requests a second by version index"""
    retry: bool = False

    def plan(self, wanted: Wanted) -> ObjectPlan:
        made = self._model(wanted) if wanted.document.kind == "Model" else self._pipeline(wanted)
        last = self.last.get(wanted.key)
        if last is not None and last.fleet != self.fleet:
            made = replace(
                made,
                action=UPDATE if made.action in (NONE, RECORD) else made.action,
                steps=(f"take it over from the fleet {last.fleet}", *made.steps),
            )
        made = replace(made, generation=last.generation if last else 0)
        return replace(made, fingerprint=self._fingerprint(made, wanted))

    def _fingerprint(self, made: ObjectPlan, wanted: Wanted) -> str:
        move = made.version and replace(made.version, sentence="")
        seen = [made.generation, made.action, wanted.plain, move]
        seen.append([(c.path, c.before, c.after) for c in made.changes])
        text = json.dumps(msgspec.to_builtins(seen), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    # Models ------------------------------------------------------------------------------------

    def _model(self, wanted: Wanted) -> ObjectPlan:
        document, plain = wanted.document, wanted.plain
        assert isinstance(document, ModelDocument)
        name, last = document.metadata.name, self.last.get(wanted.key)
        model = self.world.models.get(name)
        found = self._difference(wanted, last)
        version = self._version(wanted, last)
        effects = [one for one in found.changes if not one.recorded_only]
        steps = self._steps(wanted, effects, version)
        samples: tuple[Expected, ...] = ()
        warnings: list[str] = []
        notes: list[str] = []
        replicas, memory = 0, None
        moving = version is not None and version.moves
        if version is not None and moving:
            told = spec_of(document)
            if version.before:
                rate = self._rate(wanted.place)
                samples = tuple(expected(told, rate))
                warnings += proof_warnings(told, samples, rate, plain)
                replicas = self.replicas
            resources = document.serve.resources if document.serve else None
            if resources is not None and resources.memory is not None:
                memory = resources.memory * replicas
        notes += kept(plain)
        counts = bool(found.changes) or moving
        if model is None:
            action = CREATE
        elif counts:
            action = UPDATE
        else:
            action = RECORD if found.unrecorded else NONE
        affected: list[str] = []
        if effects or moving:
            starts = [f"model {name}", f"endpoint {wanted.place}"]
            affected = [one for start in starts for one in self.world.affected(start)]
            own = {*starts}
            affected = [one for one in dict.fromkeys(affected) if one not in own]
        old = place_of(last.document) if last else wanted.place
        if old != wanted.place:
            warnings.append(f"the endpoint {old} stays: modelfleet endpoints delete {old}")
        return ObjectPlan(
            "Model",
            name,
            action,
            changes=found.changes,
            version=version,
            steps=tuple(steps),
            affected=tuple(affected),
            samples=samples,
            warnings=tuple(warnings),
            notes=tuple(notes),
            replicas=replicas,
            memory=memory,
        )

    def _difference(self, wanted: Wanted, last: FleetObject | None) -> Difference:
        name = wanted.key[1]
        world = self.world
        seen = facts.seen_facts(
            world.models.get(name),
            world.endpoints.get(wanted.place),
            world.uses.get(name, frozenset()),
            world.consumers.get(name, frozenset()),
        )
        file = self._settled(name, facts.file_facts(wanted.plain))
        was = None
        if last is not None and last.kind == "Model":
            was = self._settled(name, facts.file_facts(last.document))
        return compare(file, was, seen, facts.WATCHED, facts.DEFAULTS)

    def _settled(self, name: str, found: Flat) -> Flat:
        """Rules name versions by number or version; they are kept by version."""
        if facts.RULES in found:
            found[facts.RULES] = [self._by_version(name, rule) for rule in found[facts.RULES]]
        return found

    def _by_version(self, name: str, rule: Mapping[str, Any]) -> dict[str, Any]:
        version = self.world.resolve(name, str(rule["version"]))
        return {**rule, "version": version.version if version else rule["version"]}

    def _version(self, wanted: Wanted, last: FleetObject | None) -> VersionMove | None:
        document = wanted.document
        assert isinstance(document, ModelDocument)
        source, name = document.source, document.metadata.name
        if source is None:
            return None
        if source.path is not None:
            reference = source.path
            own = self.world.versions.get(name, ())
            target = next(
                (one for one in own if source.digest and one.source == source.digest), None
            )
        else:
            reference = source.version or "latest"
            target = self.world.resolve(name, reference)
        endpoint = self.world.endpoints.get(wanted.place)
        stable = endpoint.stable_version_id if endpoint else None
        serving = next((one for one in self.world.versions.get(name, ()) if one.id == stable), None)
        before = serving.version if serving else ""
        if target is None:
            if source.path is not None:
                return VersionMove(reference, before, "", UNMADE)
            said = f"no version of {name} is {reference} yet"
            return VersionMove(reference, before, "", "missing", said)
        state, sentence = "rollout", ""
        if serving is not None and serving.id == target.id:
            state = "same"
        rollout = self.world.rollouts.get(endpoint.id) if endpoint else None
        if rollout is not None and (rollout.active or state == "rollout"):
            state, sentence = self._beside(rollout, target, state, wanted, last)
        return VersionMove(reference, before, target.version, state, sentence)

    def _beside(
        self,
        rollout: RolloutRow,
        target: VersionRow,
        state: str,
        wanted: Wanted,
        last: FleetObject | None,
    ) -> tuple[str, str]:
        """What the endpoint's newest rollout means for the next one."""
        same = rollout.to_version_id == target.id
        if rollout.active:
            if same:
                return "running", f"rollout {rollout.id} is {rollout.state}: {rollout.sentence}"
            said = f"rollout {rollout.id} to another version is {rollout.state}"
            return "blocked", f"{said}; wait for it, or: modelfleet rollouts abort {rollout.id}"
        if not same or rollout.state == "succeeded" or self.retry:
            return state, ""
        was = last.document if last else {}
        if any(was.get(key) != wanted.plain.get(key) for key in _STEERING):
            return state, ""
        said = (
            f"it was {rollout.state.replace('_', ' ')} on {rollout.started_at}: {rollout.sentence}"
        )
        return "held", f"{said} Change the file, or apply with --retry."

    def _rate(self, place: str) -> float:
        endpoint = self.world.endpoints.get(place)
        if endpoint is None:
            return 0.0
        ids = {route.version_id for route in endpoint.routes if route.weight}
        own = self.world.versions.get(endpoint.model, ())
        return sum(self.rates.get(one.index, 0.0) for one in own if one.id in ids)

    def _steps(
        self, wanted: Wanted, effects: Sequence[Change], version: VersionMove | None
    ) -> list[str]:
        document = wanted.document
        assert isinstance(document, ModelDocument)
        steps = []
        model = self.world.models.get(document.metadata.name)
        if model is None:
            steps.append(f"create the model for team {document.metadata.owner}")
        elif any(one.path == "metadata.owner" for one in effects):
            steps.append(f"give it to team {document.metadata.owner}")
        if model is not None and any(one.path.startswith("metadata.") for one in effects):
            steps.append("describe the model anew")
        if self.world.endpoints.get(wanted.place) is None and wanted.needs_place:
            steps.append(f"create the endpoint {wanted.place}")
        if any(one.path.startswith(("endpoint.", "serve.timeout")) for one in effects):
            steps.append(f"set the traffic policy of {wanted.place}")
        if any(one.path.startswith(("uses", "consumers")) for one in effects):
            steps.append("declare lineage")
        if version is not None and version.moves:
            told = spec_of(document)
            how = told.strategy.value if version.before else "at once, as nothing serves yet"
            what = version.after
            if version.state == UNMADE:
                steps.append(f"register {version.reference}")
                what = "it"
            steps.append(f"roll out {what}: {how}{shape(told) if version.before else ''}")
        return steps

    # Pipelines ---------------------------------------------------------------------------------

    def _pipeline(self, wanted: Wanted) -> ObjectPlan:
        document = wanted.document
        assert isinstance(document, PipelineDocument)
        name, last = document.metadata.name, self.last.get(wanted.key)
        try:
            file = flat(pipelines.definition_of(wanted.plain))
            was = flat(pipelines.definition_of(last.document)) if last else None
        except InvalidInput as error:
            raise InvalidInput(f"{name}: {error.message}", hint=error.hint) from error
        present = self.world.pipelines.get(name)
        seen = flat(present.definition) if present else {}
        watched = sorted({path[:1] for path in (*file, *seen)})
        # a definition is whole: what it holds and the file doesn't say goes, too
        before = {**seen, **was} if was is not None else dict(seen) or None
        changes = compare(file, before, seen, watched, {}).changes
        if present is None:
            action = CREATE
        elif changes:
            action = UPDATE
        else:
            action = RECORD if last is None or last.document != wanted.plain else NONE
        steps = []
        if action in (CREATE, UPDATE):
            revision = present.revision + 1 if present else 1
            steps.append(f"define revision {revision} with {len(document.steps)} steps")
        affected = self.world.affected(f"pipeline {name}") if changes else []
        return ObjectPlan(
            "Pipeline", name, action, changes, steps=tuple(steps), affected=tuple(affected)
        )
