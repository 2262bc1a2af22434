"""What applying documents would do, object by object. Reads alone; decides nothing in secret."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
from pydantic import ValidationError

from modelfleet.core.errors import FleetError, InvalidInput
from modelfleet.delivery import facts, pipelines
from modelfleet.delivery.diff import Change, Difference, Flat, compare, flat
from modelfleet.delivery.objects import FleetObject, Key
from modelfleet.delivery.samples import LONG, Expected, expected
from modelfleet.delivery.specs import spec_of
from modelfleet.delivery.world import RolloutRow, VersionRow, World, checked_range
from modelfleet.fleetfile.documents import KINDS, ModelDocument, PipelineDocument
from modelfleet.rollouts.plan import FULL, Spec, Strategy

NONE, RECORD, CREATE, UPDATE, DELETE = "none", "record", "create", "update", "delete"
UNMADE = "unmade"
_STEERING = ("source", "rollout", "gates", "approvals")
"""sections whose change lets a version that was rolled back be tried again"""


@dataclass(frozen=True)
class VersionMove:
    """Which version serves, and which one the source means now."""

    reference: str
    before: str
    """empty if none serves"""
    after: str
    """empty if the source means none yet"""
    state: str
    """same, rollout (apply starts one), unmade (apply registers it first), running, held, blocked
    or missing"""
    sentence: str = ""

    @property
    def moves(self) -> bool:
        """Whether applying moves traffic, sooner or later."""
        return self.state in ("rollout", UNMADE)


@dataclass(frozen=True)
class Trouble:
    """What is wrong with a document, as far as only the platform can know."""

    kind: str
    name: str
    path: str
    message: str
    hint: str = ""


@dataclass(frozen=True)
class ObjectPlan:
    kind: str
    name: str
    action: str
    """none, record (all is so already, only the record is not), create, update or delete"""
    changes: tuple[Change, ...] = ()
    version: VersionMove | None = None
    steps: tuple[str, ...] = ()
    affected: tuple[str, ...] = ()
    """what takes its answers, directly or not: `model upsell`"""
    samples: tuple[Expected, ...] = ()
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    generation: int = 0
    """that was applied last; 0: none was"""
    replicas: int = 0
    """more (or fewer) workers while it rolls out"""
    memory: int | None = None
    """bytes that these declare; None if the document doesn't say"""
    fingerprint: str = ""
    """of all that the plan was made from: it is stale once this changes"""

    @property
    def counts(self) -> bool:
        """Whether applying changes anything."""
        return self.action in (CREATE, UPDATE, DELETE)


@dataclass(frozen=True)
class Wanted:
    """A document as it came, typed."""

    document: ModelDocument | PipelineDocument
    plain: Mapping[str, Any]

    @property
    def key(self) -> Key:
        return self.document.kind, self.document.metadata.name

    @property
    def place(self) -> str:
        """Its endpoint."""
        return place_of(self.plain)

    @property
    def needs_place(self) -> bool:
        return any(key in self.plain for key in ("source", "endpoint")) or "timeout" in (
            self.plain.get("serve", {})
        )


def place_of(plain: Mapping[str, Any]) -> str:
    """The endpoint of a document in plain values."""
    return str(plain.get("endpoint", {}).get("name") or plain["metadata"]["name"])


def read(document: object) -> Wanted:
    """Raises `InvalidInput`: a client checks documents before it sends them."""
    kind = document.get("kind") if isinstance(document, dict) else None
    if not isinstance(document, dict) or kind not in ("Model", "Pipeline"):
        raise InvalidInput("A document is a mapping with kind: Model or Pipeline.")
    try:
        json.dumps(document, ensure_ascii=False, allow_nan=False).encode()
        made = KINDS[kind].model_validate(document)
    except (ValidationError, RecursionError, ValueError) as error:
        first: Mapping[str, Any] = {}
        if isinstance(error, ValidationError):
            first = error.errors()[0]
        where = ".".join(str(part) for part in first.get("loc", ()))
        raise InvalidInput(f"{kind}: {where}: {first.get('msg', error)}") from error
    assert isinstance(made, (ModelDocument, PipelineDocument))
    plain = made.model_dump(
        mode="json", by_alias=True, exclude_unset=True, exclude_none=True, exclude={"stages"}
    )
    return Wanted(made, plain)


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
                warnings += _warnings(told, samples, rate, plain)
                replicas = self.replicas
            resources = document.serve.resources if document.serve else None
            if resources is not None and resources.memory is not None:
                memory = resources.memory * replicas
        notes += _kept(plain)
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
            steps.append(f"roll out {what}: {how}{_shape(told) if version.before else ''}")
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

    # What only the platform can know -----------------------------------------------------------

    def troubles(self, wanted: Wanted, *, references: bool = True) -> list[Trouble]:
        """References to nothing, and sources that can't be read."""
        kind, name = wanted.key
        found = []

        def say(path: str, message: str, hint: str = "") -> None:
            found.append(Trouble(kind, name, path, message, hint))

        document = wanted.document
        models = {other for k, other in self.known if k == "Model"} | self.world.models.keys()
        if isinstance(document, PipelineDocument):
            try:
                pipelines.definition_of(wanted.plain)
            except FleetError as error:
                say("", error.message, error.hint)
            return found
        for number, use in enumerate(document.uses or ()):
            if references and use.model not in models:
                say(f"uses[{number}].model", f"there is no model {use.model}")
            wrong = checked_range(use.version or "")
            if wrong:
                say(f"uses[{number}].version", wrong)
        for number, consumer in enumerate(document.consumers or ()):
            if references and consumer.model is not None and consumer.model not in models:
                say(f"consumers[{number}].model", f"there is no model {consumer.model}")
        source = document.source
        if source is not None:
            wrong = checked_range(source.version or "")
            if wrong:
                say("source.version", wrong)
            other = (source.registry or f"models:/{name}").removeprefix("models:/")
            if other != name:
                say(
                    "source.registry",
                    f"versions of {other} can't serve as {name}",
                    "name the document as the model, and its endpoint by endpoint.name",
                )
        endpoint = self.world.endpoints.get(wanted.place)
        if endpoint is not None and endpoint.model != name:
            said = f"the endpoint {wanted.place} serves the model {endpoint.model} already"
            say("endpoint.name" if document.endpoint else "metadata.name", said)
        try:
            spec_of(document)
        except InvalidInput as error:
            say("rollout", error.message, error.hint)
        return found


def _shape(spec: Spec) -> str:
    """The steps in a few words."""
    parts = []
    for step in spec.plan:
        share = step.shadow if spec.mirrored else step.weight
        parts.append(f"{'copies of ' if spec.mirrored else ''}{100 * share / FULL:g} %")
    if spec.strategy in (Strategy.CANARY, Strategy.SHADOW):
        parts.append("100 %" if spec.strategy is Strategy.CANARY else "promoted")
    return f" ({' → '.join(parts)})" if parts else ""


def _warnings(
    spec: Spec, samples: Sequence[Expected], rate: float, plain: Mapping[str, Any]
) -> list[str]:
    found = []
    if spec.plan and rate == 0:
        found.append(
            "nobody calls the endpoint now: nothing can be proven, and it waits at its first step"
        )
    limit = max(spec.inconclusive_after_seconds, LONG)
    last = {one.metric: one for one in samples if rate > 0}
    for metric, one in last.items():
        if one.requests is None:
            found.append(f"{metric}: no number of requests proves it: the margin is too tight")
        elif one.seconds is not None and one.seconds > spec.inconclusive_after_seconds:
            often = "longer than a week" if one.seconds > limit else "longer than on_inconclusive"
            found.append(
                f"{metric}: half of all proofs take over {_time(one.seconds)}, {often} waits: "
                "widen the margin, or use shadow"
            )
    endpoint = plain.get("endpoint", {})
    if spec.plan and endpoint.get("sticky", "none") != "none":
        found.append(
            "sticky: requests of one key belong together, so proofs need more of them than told"
        )
    return found


def _time(seconds: float) -> str:
    for unit, length in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.3g} s"


def _kept(plain: Mapping[str, Any]) -> list[str]:
    """Sections that nothing acts on yet."""
    found = [
        f"{key}: kept only; {what} come later" for key, what in facts.KEPT.items() if key in plain
    ]
    serve = plain.get("serve", {})
    for key in ("runtime", "env", "resources", "pinned"):
        if key in serve and serve[key] not in ("auto",):
            found.append(f"serve.{key}: kept only; nothing acts on it yet")
    return found
