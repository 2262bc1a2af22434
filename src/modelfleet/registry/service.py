"""Verbs of the registry. Every mutation is authorized and audited in its own transaction."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import msgspec
import sqlalchemy as sa

from modelfleet.core import audit
from modelfleet.core.authorization import Action, Principal, Resource, authorize
from modelfleet.core.clock import now_us
from modelfleet.core.database import Database
from modelfleet.core.errors import Conflict, InvalidInput, NotFound, Referenced
from modelfleet.core.ids import new_id
from modelfleet.core.jobs import JobRunner
from modelfleet.lineage import Node, add_edge, edges_from, remove_edges
from modelfleet.registry import semver, signature, store
from modelfleet.registry.bundles import BundleStore, Entry
from modelfleet.registry.tables import alias, model, model_version, variant
from modelfleet.registry.types import (
    CRITICALITIES,
    ISOLATIONS,
    Environment,
    Model,
    NewVersion,
    Placement,
    Run,
    Variant,
    Version,
)

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,118}[A-Za-z0-9])?")
_ALIAS = re.compile(r"[\w-]{1,100}")
PREPARE = "prepare-version"
"""Kind of the job that makes a new version ready; its argument is `version_id`."""


class RegistryService:
    def __init__(self, database: Database, bundles: BundleStore, jobs: JobRunner) -> None:
        self._database = database
        self._bundles = bundles
        self._jobs = jobs
        self._ready: dict[str, Version] = {}

    # Models ------------------------------------------------------------------------------------

    def create_model(
        self,
        actor: Principal,
        name: str,
        *,
        owner_team: str,
        business_function: str = "",
        criticality: str = "normal",
        description: str = "",
        tags: Mapping[str, str] | None = None,
        isolation: str = "shared",
    ) -> Model:
        if not _NAME.fullmatch(name):
            raise InvalidInput(
                f"{name[:120]!r} can't name a model.",
                hint="Use 1 to 120 letters, digits, dots, hyphens and underscores.",
            )
        if not owner_team or len(owner_team) > 120 or owner_team == "*":
            raise InvalidInput("A model needs an owner team.")
        _check(criticality, isolation)
        authorize(actor, Action.REGISTER, Resource("model", name, owner_team))
        with self._database.begin() as connection:
            if store.find_model(connection, name) is not None:
                raise Conflict(f"There is already a model {name}.")
            values = {
                "owner_team": owner_team,
                "business_function": business_function,
                "criticality": criticality,
                "description": description,
                "tags": dict(tags or {}),
                "isolation": isolation,
            }
            connection.execute(
                sa.insert(model).values(
                    id=new_id(), name=name, next_sequence=1, created_at=now_us(), **values
                )
            )
            resource = Resource("model", name, owner_team)
            audit.record(connection, actor, "create-model", resource, values)
            return self._model(connection, name)

    def update_model(
        self,
        actor: Principal,
        name: str,
        *,
        business_function: str | None = None,
        criticality: str | None = None,
        description: str | None = None,
        tags: Mapping[str, str] | None = None,
        isolation: str | None = None,
    ) -> Model:
        given = {
            "business_function": business_function,
            "criticality": criticality,
            "description": description,
            "tags": dict(tags) if tags is not None else None,
            "isolation": isolation,
        }
        changes = {key: value for key, value in given.items() if value is not None}
        _check(criticality, isolation)
        with self._database.begin() as connection:
            found = self._model(connection, name)
            resource = Resource("model", found.name, found.owner_team)
            authorize(actor, Action.REGISTER, resource)
            if changes:
                connection.execute(sa.update(model).where(model.c.id == found.id).values(**changes))
                audit.record(connection, actor, "update-model", resource, changes)
            return self._model(connection, name)

    def get_model(self, actor: Principal, name: str) -> Model:
        with self._database.read() as connection:
            found = self._model(connection, name)
        authorize(actor, Action.READ, Resource("model", found.name, found.owner_team))
        return found

    def list_models(
        self,
        actor: Principal,
        *,
        team: str | None = None,
        text: str | None = None,
        limit: int = 100,
        offset: int = 0,
    ) -> list[Model]:
        """Models by name; only those of teams whose models `actor` may read."""
        with self._database.read() as connection:
            return store.list_models(
                connection,
                readable=actor.teams(Action.READ),
                team=team,
                text=text,
                limit=limit,
                offset=offset,
            )

    def delete_model(self, actor: Principal, name: str) -> None:
        with self._database.begin() as connection:
            found = self._model(connection, name)
            resource = Resource("model", found.name, found.owner_team)
            authorize(actor, Action.DELETE, resource)
            if found.versions:
                raise Referenced(
                    f"{name} has {found.versions} versions.", hint="Delete its versions first."
                )
            uses = [
                one.destination.name
                for one in edges_from(connection, Node("model", found.name))
                if one.destination.kind in ("version", "endpoint")
            ]
            if uses:
                raise Referenced(
                    f"{name} is used by {', '.join(uses)}.",
                    hint="Delete these first.",
                    holders=uses,
                )
            connection.execute(sa.delete(model).where(model.c.id == found.id))
            audit.record(connection, actor, "delete-model", resource)

    # Versions ----------------------------------------------------------------------------------

    def register(self, actor: Principal, name: str, new: NewVersion) -> Version:
        """A new immutable version. It is `pending` until it was prepared, then `ready` or `failed`.

        The blobs of `new.entries` must be here. Nothing is visible before everything is written.
        """
        with self._database.read() as connection:
            known = self._model(connection, name)
        authorize(actor, Action.REGISTER, Resource("model", known.name, known.owner_team))
        digest = self._bundles.check(new.entries)
        info_bytes = self._bundles.read(new.entries, "bundle.json")
        info = signature.read(info_bytes)
        with self._database.begin() as connection:
            found = self._model(connection, name)
            resource = Resource("model", found.name, found.owner_team)
            authorize(actor, Action.REGISTER, resource)
            last = self._last(connection, found)
            number = self._next_semver(connection, found, last, new, info, digest)
            store.add_bundle(connection, digest, new.entries)
            run_id = self._add_run(connection, new)
            version_id, sequence = new_id(), self._next_sequence(connection, found)
            connection.execute(
                sa.insert(model_version).values(
                    id=version_id,
                    model_id=found.id,
                    sequence=sequence,
                    semver=str(number),
                    semver_sort_key=number.sort_key,
                    status="pending",
                    reason="",
                    bundle_digest=digest,
                    requested_environment={
                        "requirements": sorted(new.requirements),
                        "python": new.python,
                        **({} if new.compile else {"compile": False}),
                    },
                    run_id=run_id,
                    info=msgspec.json.decode(info_bytes),
                    serving="",
                    metrics=dict(new.metrics),
                    created_by=actor.name,
                    created_at=now_us(),
                )
            )
            connection.execute(
                sa.update(model).where(model.c.id == found.id).values(latest_version_id=version_id)
            )
            self._draw_lineage(connection, f"{found.name}@{number}", run_id, new)
            details = {"version": str(number), "sequence": sequence, "bundle": digest}
            audit.record(connection, actor, "register-version", resource, details)
            self._jobs.enqueue(
                connection, PREPARE, f"{PREPARE}/{version_id}", {"version_id": version_id}
            )
            return self._version_by_id(connection, version_id)

    def _next_semver(
        self,
        connection: sa.Connection,
        found: Model,
        last: Version | None,
        new: NewVersion,
        info: signature.BundleInfo,
        digest: str,
    ) -> semver.Semver:
        if new.version is not None:
            number = semver.parse(new.version)
        else:
            number = semver.propose(
                semver.parse(last.version) if last else None,
                compatible=last is None
                or signature.compatible(last.info.signature, info.signature),
                same_content=last is not None and last.bundle_digest == digest,
            )
        taken = connection.execute(
            sa.select(model_version.c.id).where(
                model_version.c.model_id == found.id,
                model_version.c.semver_sort_key == number.sort_key,
            )
        ).first()
        if taken is not None:
            raise Conflict(
                f"{found.name} has a version {number} already.", hint="Versions never change."
            )
        return number

    def _next_sequence(self, connection: sa.Connection, found: Model) -> int:
        sequence = connection.execute(
            sa.select(model.c.next_sequence).where(model.c.id == found.id)
        ).scalar_one()
        connection.execute(
            sa.update(model).where(model.c.id == found.id).values(next_sequence=sequence + 1)
        )
        return int(sequence)

    def _last(self, connection: sa.Connection, found: Model) -> Version | None:
        """The version with the highest semantic version."""
        key = connection.execute(
            sa.select(sa.func.max(model_version.c.semver_sort_key)).where(
                model_version.c.model_id == found.id
            )
        ).scalar_one()
        condition = sa.and_(
            model_version.c.model_id == found.id, model_version.c.semver_sort_key == key
        )
        matching = store.versions(connection, condition)
        return matching[0] if matching else None

    def _add_run(self, connection: sa.Connection, new: NewVersion) -> str:
        made = Run(
            new_id(),
            new.experiment,
            new.run_name,
            new.parameters,
            new.metrics,
            new.dataset,
            new.git_commit,
            "",
        )
        store.add_run(connection, made)
        return made.id

    def _draw_lineage(
        self, connection: sa.Connection, name: str, run_id: str, new: NewVersion
    ) -> None:
        version = Node("version", name)
        add_edge(connection, Node("run", run_id), "produced", version)
        if new.dataset:
            add_edge(connection, Node("dataset", new.dataset), "trained", Node("run", run_id))
        for used in new.uses:
            feeding = self._model(connection, used)
            add_edge(connection, Node("model", feeding.name), "feeds", version)

    def get_version(self, actor: Principal, name: str, reference: str) -> Version:
        """By semantic version, sequence number, alias or `latest`."""
        with self._database.read() as connection:
            found = self._version(connection, name, reference)
        authorize(actor, Action.READ, Resource("model", found.model, found.owner_team))
        return found

    def list_versions(
        self, actor: Principal, name: str | None = None, *, limit: int = 1000
    ) -> list[Version]:
        """Newest first; of one model, or of all that `actor` may read."""
        with self._database.read() as connection:
            condition = store.readable_by(actor.teams(Action.READ))
            if name is not None:
                own = model_version.c.model_id == self._model(connection, name).id
                condition = sa.and_(condition, own)
            return store.versions(connection, condition, limit)

    def placements(self) -> dict[str, Placement]:
        """Of all models, by name. For the platform's own rooms: no check of who asks."""
        with self._database.read() as connection:
            return store.placements(connection)

    def versions_by_index(self, indexes: Sequence[int]) -> dict[int, Version]:
        """For the platform's own rooms: no check of who asks."""
        with self._database.read() as connection:
            found = store.versions(connection, model_version.c.number.in_(indexes))
        return {one.index: one for one in found}

    def versions_by_id(self, version_ids: Sequence[str]) -> dict[str, Version]:
        """For the platform's own rooms: no check of who asks.

        Versions that are ready never change, so they are remembered; only their `aliases` may be
        those of an earlier moment.
        """
        known = {v: self._ready[v] for v in version_ids if v in self._ready}
        missing = [v for v in version_ids if v not in known]
        if missing:
            with self._database.read() as connection:
                found = store.versions(connection, model_version.c.id.in_(missing))
            known |= {one.id: one for one in found}
            self._ready |= {one.id: one for one in found if one.status == "ready"}
        return known

    def variants(self, version_ids: Sequence[str]) -> dict[str, list[Variant]]:
        with self._database.read() as connection:
            return store.variants(connection, version_ids)

    def serving_variant(self, version: Version) -> Variant:
        """The variant that was chosen to serve. Raises `Conflict` while there is none."""
        for one in self.variants([version.id]).get(version.id, ()):
            if one.kind == version.serving:
                return one
        raise Conflict(f"{version.name} is {version.status} and can't be served.")

    def entries(self, digest: str) -> tuple[Entry, ...]:
        with self._database.read() as connection:
            return store.entries(connection, digest)

    def get_run(self, actor: Principal, run_id: str) -> Run:
        with self._database.read() as connection:
            found = store.find_run(connection, run_id)
            made = store.versions(connection, model_version.c.run_id == run_id, 1)
        team = made[0].owner_team if made else "*"
        authorize(actor, Action.READ, Resource("run", run_id, team))
        if found is None:
            raise NotFound(f"There is no run {run_id}.")
        return found

    def get_environment(self, digest: str) -> Environment:
        with self._database.read() as connection:
            found = store.find_environment(connection, digest)
        if found is None:
            raise NotFound(f"There is no environment {digest}.")
        return found

    def delete_version(self, actor: Principal, name: str, reference: str) -> None:
        """Delete a version that nothing refers to."""
        with self._database.begin() as connection:
            found = self._version(connection, name, reference)
            resource = Resource("model", found.model, found.owner_team)
            authorize(actor, Action.DELETE, resource)
            held = [*store.holders(connection, found.id), *(f"alias/{a}" for a in found.aliases)]
            if held:
                raise Referenced(
                    f"{found.name} is used by {', '.join(held)}.",
                    hint="Move these to another version first.",
                    holders=held,
                )
            connection.execute(sa.delete(variant).where(variant.c.version_id == found.id))
            connection.execute(sa.delete(model_version).where(model_version.c.id == found.id))
            self._point_latest(connection, found.model_id)
            remove_edges(connection, Node("version", found.name))
            details = {"version": found.version, "bundle": found.bundle_digest}
            audit.record(connection, actor, "delete-version", resource, details)
            self._ready.pop(found.id, None)

    def _point_latest(self, connection: sa.Connection, model_id: str) -> None:
        latest = connection.execute(
            sa.select(model_version.c.id)
            .where(model_version.c.model_id == model_id)
            .order_by(model_version.c.sequence.desc())
            .limit(1)
        ).scalar()
        connection.execute(
            sa.update(model).where(model.c.id == model_id).values(latest_version_id=latest)
        )

    # Aliases -----------------------------------------------------------------------------------

    def set_alias(self, actor: Principal, name: str, alias_name: str, reference: str) -> Version:
        if not _ALIAS.fullmatch(alias_name) or re.fullmatch(r"latest|v?\d+", alias_name):
            raise InvalidInput(f"{alias_name[:100]!r} can't be an alias.")
        with self._database.begin() as connection:
            found = self._version(connection, name, reference)
            resource = Resource("model", found.model, found.owner_team)
            authorize(actor, Action.REGISTER, resource)
            self._remove_alias(connection, found.model_id, alias_name)
            connection.execute(
                sa.insert(alias).values(
                    model_id=found.model_id, name=alias_name, version_id=found.id
                )
            )
            details = {"alias": alias_name, "version": found.version}
            audit.record(connection, actor, "set-alias", resource, details)
            return self._version_by_id(connection, found.id)

    def delete_alias(self, actor: Principal, name: str, alias_name: str) -> None:
        with self._database.begin() as connection:
            found = self._model(connection, name)
            resource = Resource("model", found.name, found.owner_team)
            authorize(actor, Action.REGISTER, resource)
            if not self._remove_alias(connection, found.id, alias_name):
                raise NotFound(f"{name} has no alias {alias_name}.")
            audit.record(connection, actor, "delete-alias", resource, {"alias": alias_name})

    def _remove_alias(self, connection: sa.Connection, model_id: str, alias_name: str) -> bool:
        removed = connection.execute(
            sa.delete(alias).where(alias.c.model_id == model_id, alias.c.name == alias_name)
        )
        return removed.rowcount > 0

    # Written by the job that prepares a version ------------------------------------------------

    def mark_ready(
        self,
        actor: Principal,
        version: Version,
        environment: Environment,
        variants: Sequence[tuple[Variant, Sequence[Entry]]],
        serving: str,
    ) -> None:
        """Keep the variants of a version and the one that was chosen to serve."""
        with self._database.begin() as connection:
            store.add_environment(connection, environment)
            for made, entries in variants:
                store.add_bundle(connection, made.bundle_digest, entries)
                store.set_variant(connection, version.id, made)
            store.set_version(
                connection,
                version.id,
                status="ready",
                reason="",
                serving=serving,
                environment_digest=environment.digest,
            )
            resource = Resource("model", version.model, version.owner_team)
            details = {"version": version.version, "serving": serving}
            audit.record(connection, actor, "prepare-version", resource, details)

    def mark_failed(self, actor: Principal, version: Version, reason: str) -> None:
        with self._database.begin() as connection:
            store.set_version(connection, version.id, status="failed", reason=reason[:2000])
            resource = Resource("model", version.model, version.owner_team)
            details = {"version": version.version, "reason": reason[:2000]}
            audit.record(connection, actor, "fail-version", resource, details)

    # Finding -----------------------------------------------------------------------------------

    def _model(self, connection: sa.Connection, name: str) -> Model:
        found = store.find_model(connection, name)
        if found is None:
            raise NotFound(f"There is no model {name}.", hint="See: modelfleet models list")
        return found

    def _version_by_id(self, connection: sa.Connection, version_id: str) -> Version:
        return store.versions(connection, model_version.c.id == version_id)[0]

    def _version(self, connection: sa.Connection, name: str, reference: str) -> Version:
        found = self._model(connection, name)
        named: sa.ColumnElement[bool] = model_version.c.id.in_(
            sa.select(alias.c.version_id).where(
                alias.c.model_id == found.id, alias.c.name == reference
            )
        )
        if reference == "latest":
            named = model_version.c.id == (
                sa.select(model.c.latest_version_id).where(model.c.id == found.id).scalar_subquery()
            )
        elif reference.isascii() and reference.isdigit():
            named = model_version.c.sequence == sa.literal(int(reference[:18]), sa.BigInteger)
        elif "." in reference:
            named = model_version.c.semver_sort_key == semver.parse(reference).sort_key
        matching = store.versions(connection, sa.and_(model_version.c.model_id == found.id, named))
        if not matching:
            raise NotFound(
                f"{name} has no version {reference}.", hint=f"See: modelfleet versions list {name}"
            )
        return matching[0]


def _check(criticality: str | None, isolation: str | None) -> None:
    if isolation is not None and isolation not in ISOLATIONS:
        raise InvalidInput(
            f"{isolation!r} is no isolation.", hint=f"Use one of {', '.join(ISOLATIONS)}."
        )
    if criticality is not None and criticality not in CRITICALITIES:
        raise InvalidInput(
            f"{criticality!r} is no criticality.", hint=f"Use one of {', '.join(CRITICALITIES)}."
        )
