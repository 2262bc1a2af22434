"""Verbs on versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import sqlalchemy as sa

from modelfleet.core import audit
from modelfleet.core.authorization import Action, Principal, authorize, authorize_somewhere
from modelfleet.core.clock import now_us
from modelfleet.core.errors import Conflict, InvalidInput, NotFound, Referenced
from modelfleet.core.ids import new_id
from modelfleet.lineage import Node, add_edge, edges_from, remove_edges
from modelfleet.registry import semver, signature, store
from modelfleet.registry.base import ModelRow, prompt_mark
from modelfleet.registry.bundles import Entry
from modelfleet.registry.code import check_code
from modelfleet.registry.collaboration.tables import version_comment, version_review
from modelfleet.registry.collaboration.templates import TemplateVerbs
from modelfleet.registry.tables import alias, model, model_version, variant, version_tag
from modelfleet.registry.tracking import store as tracking
from modelfleet.registry.tracking.types import Run
from modelfleet.registry.types import Environment, Model, NewVersion, Variant, Version

PREPARE = "prepare-version"
"""Kind of the job that makes a new version ready; its argument is `version_id`."""
LAST_SEQUENCE = 10**9
"""the largest that may be asked for: what follows must fit the database's integers, too"""


class VersionVerbs(TemplateVerbs):
    def register(self, actor: Principal, name: str, new: NewVersion) -> Version:
        """A new immutable version. It is `pending` until it was prepared, then `ready` or `failed`.

        The blobs of `new.entries` must be here. Nothing is visible before everything is written.
        """
        with self._database.read() as connection:
            known = self._model(connection, name)
        authorize(actor, Action.REGISTER, self._resource(known.name, known.owner_team))
        digest = self._bundles.check(new.entries)
        info_bytes = self._bundles.read(new.entries, "bundle.json")
        info = signature.read(info_bytes)
        check_code(self._bundles, new.code)
        with self._database.begin() as connection:
            found = self._model(connection, name)
            resource = self._resource(found.name, found.owner_team)
            authorize(actor, Action.REGISTER, resource)
            self._bundles.check(new.entries)  # garbage is collected in transactions, too
            check_code(self._bundles, new.code)
            number = self._next_semver(connection, found, new.version, info, digest)
            store.add_bundle(connection, digest, new.entries)
            run_id = self._run_of(connection, actor, new)
            version_id, _ = self._insert(
                connection,
                actor,
                self._row(connection, name),
                number,
                new.tags,
                asked=new.sequence,
                status="pending",
                bundle_digest=digest,
                requested_environment={
                    "requirements": self._with_defaults(connection, found.id, new.requirements),
                    "python": new.python,
                    **({} if new.compile else {"compile": False}),
                },
                run_id=run_id,
                info=msgspec.json.decode(info_bytes),
                metrics=dict(new.metrics),
                description=new.description,
                code=dict(new.code) if new.code else None,
                hardware=dict(new.hardware) if new.hardware else None,
            )
            self._draw_lineage(connection, found.name, number, run_id, new)
            self._jobs.enqueue(
                connection, PREPARE, f"{PREPARE}/{version_id}", {"version_id": version_id}
            )
            return self._version_by_id(connection, version_id)

    def _insert(
        self,
        connection: sa.Connection,
        actor: Principal,
        found: ModelRow,
        number: semver.Semver,
        tags: Mapping[str, str],
        *,
        asked: int | None,
        **values: object,
    ) -> tuple[str, int]:
        """The row of a new version and its audit event; its id and sequence number."""
        version_id, now, sequence = new_id(), now_us(), _next_sequence(found, asked)
        given = {"reason": "", "serving": "", "metrics": {}, "requested_environment": {}} | values
        connection.execute(
            sa.insert(model_version).values(
                id=version_id,
                model_id=found.id,
                sequence=sequence,
                semver=str(number),
                semver_sort_key=number.sort_key,
                created_by=actor.name,
                created_at=now,
                updated_at=now,
                **given,
            )
        )
        store.touch_model(
            connection, found.id, next_sequence=sequence + 1, latest_version_id=version_id
        )
        if tags:
            store.replace_tags(connection, version_tag, version_id, tags)
        details = {
            "version": str(number),
            "sequence": sequence,
            "bundle": values.get("bundle_digest") or "",
            "source": values.get("source_uri") or "",
            "run_id": values.get("run_id") or "",
            "description": str(values.get("description") or "")[:1000],
            "tags": {key: value[:1000] for key, value in tags.items()},
        } | prompt_mark(tags)
        resource = self._resource(found.name, found.owner_team)
        audit.record(connection, actor, "register-version", resource, details)
        return version_id, sequence

    def _next_semver(
        self,
        connection: sa.Connection,
        found: Model,
        asked: str | None,
        info: signature.BundleInfo,
        digest: str,
    ) -> semver.Semver:
        if asked is not None:
            number = semver.parse(asked)
        else:
            last = self._last(connection, found)
            number = semver.propose(
                semver.parse(last.version) if last else None,
                compatible=last is None
                or last.info == signature.UNKNOWN
                or signature.compatible(last.info.signature, info.signature),
                same_content=last is not None and last.bundle_digest == digest,
            )
        self._refuse_taken(connection, found, number)
        return number

    def _refuse_taken(
        self, connection: sa.Connection, found: Model | ModelRow, number: semver.Semver
    ) -> None:
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

    def _last(self, connection: sa.Connection, found: Model) -> Version | None:
        """The version with the highest semantic version."""
        own = model_version.c.model_id == found.id
        matching = store.versions(
            connection, own, 1, order=(model_version.c.semver_sort_key.desc(),)
        )
        return matching[0] if matching else None

    def _run_of(self, connection: sa.Connection, actor: Principal, new: NewVersion) -> str:
        if new.run_id is not None:
            if tracking.find_run(connection, self.namespace_id, new.run_id) is None:
                raise NotFound(f"There is no run {new.run_id}.")
            return new.run_id
        return tracking.add_finished_run(
            connection,
            self.namespace_id,
            experiment_name=new.experiment,
            name=new.run_name,
            user=actor.name,
            parameters=new.parameters,
            metrics=new.metrics,
            dataset=new.dataset,
            git_commit=new.git_commit,
        )

    def _draw_lineage(
        self,
        connection: sa.Connection,
        name: str,
        number: semver.Semver,
        run_id: str,
        new: NewVersion,
    ) -> None:
        version = Node("version", self._qualified(f"{name}@{number}"))
        add_edge(connection, Node("run", run_id), "produced", version)
        if new.dataset:
            add_edge(connection, Node("dataset", new.dataset), "trained", Node("run", run_id))
        for used in new.uses:
            feeding = self._model(connection, used)
            add_edge(connection, Node("model", self._qualified(feeding.name)), "feeds", version)

    def get_version(self, actor: Principal, name: str, reference: str) -> Version:
        """By alias, semantic version, range, sequence number, stage or `latest`."""
        with self._database.read() as connection:
            found = self._version(connection, name, reference)
        authorize(actor, Action.READ, self._resource(found.model, found.owner_team))
        return found

    def list_versions(
        self, actor: Principal, name: str | None = None, *, limit: int = 1000
    ) -> list[Version]:
        """Newest first; of one model, or of all that `actor` may read."""
        with self._database.read() as connection:
            condition = sa.and_(
                model.c.namespace_id == self.namespace_id,
                store.readable_by(actor.teams(Action.READ)),
            )
            if name is not None:
                own = model_version.c.model_id == self._model(connection, name).id
                condition = sa.and_(condition, own)
            return store.versions(connection, condition, limit)

    def versions_by_index(self, indexes: Sequence[int]) -> dict[int, Version]:
        """For the platform's own rooms: no check of who asks."""
        with self._database.read() as connection:
            found = store.versions(connection, model_version.c.number.in_(indexes))
        return {one.index: one for one in found}

    def versions_by_id(self, version_ids: Sequence[str]) -> dict[str, Version]:
        """For the platform's own rooms: no check of who asks.

        Versions that are ready never change, so they are remembered; only their `aliases`, tags
        and stages may be those of an earlier moment.
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
            found = tracking.find_run(connection, self.namespace_id, run_id)
            made = store.versions(connection, model_version.c.run_id == run_id, 1)
        if made:
            authorize(actor, Action.READ, self._resource(run_id, made[0].owner_team, "run"))
        else:
            authorize_somewhere(actor, Action.READ, self._resource(run_id, "*", "run"))
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
        """Delete a version that nothing refers to. Aliases that are not protected go with it."""
        with self._database.begin() as connection:
            found = self._version(connection, name, reference)
            resource = self._resource(found.model, found.owner_team)
            authorize(actor, Action.DELETE, resource)
            self._refuse_if_held(connection, found)
            self._remove_version(connection, found)
            latest = connection.execute(
                sa.select(model_version.c.id)
                .where(model_version.c.model_id == found.model_id)
                .order_by(model_version.c.sequence.desc())
                .limit(1)
            ).scalar()
            store.touch_model(connection, found.model_id, latest_version_id=latest)
            details = {
                "version": found.version,
                "bundle": found.bundle_digest,
                "aliases": list(found.aliases),
            }
            audit.record(connection, actor, "delete-version", resource, details)

    def _holders(self, connection: sa.Connection, found: Version) -> list[str]:
        guarded = connection.execute(
            sa.select(alias.c.name)
            .where(alias.c.version_id == found.id, alias.c.protected)
            .order_by(alias.c.name)
        ).scalars()
        return [
            *store.holders(connection, found.id),
            *(f"alias/{name}" for name in guarded),
            *(f"application/{name}" for name in self._applications(connection, found)),
        ]

    def _applications(self, connection: sa.Connection, found: Version) -> list[str]:
        """Those of which somebody declared that they consume this very version."""
        node = Node("version", self._qualified(found.name))
        made = (one.destination for one in edges_from(connection, node))
        return [one.name for one in made if one.kind == "application"]

    def _refuse_if_held(self, connection: sa.Connection, found: Version) -> None:
        held = self._holders(connection, found)
        if held:
            raise Referenced(
                f"{found.name} is used by {', '.join(held)}.",
                hint="Move these to another version first.",
                holders=held,
            )

    def _remove_version(self, connection: sa.Connection, found: Version) -> None:
        for table in (variant, version_tag, alias, version_comment, version_review):
            connection.execute(sa.delete(table).where(table.c.version_id == found.id))
        connection.execute(sa.delete(model_version).where(model_version.c.id == found.id))
        remove_edges(connection, Node("version", self._qualified(found.name)))
        self._ready.pop(found.id, None)

    def prepare(self, actor: Principal, name: str, reference: str) -> Version:
        """Let a version be made ready that was only registered, or failed. Twice is once."""
        with self._database.begin() as connection:
            found = self._version(connection, name, reference)
            resource = self._resource(found.model, found.owner_team)
            authorize(actor, Action.REGISTER, resource)
            if found.status == "external":
                raise Conflict(
                    f"The files of {found.name} are at {found.source_uri}, not here.",
                    hint="Log the model here, or import it, to deploy it.",
                )
            if self.namespace != "default":
                raise Conflict(
                    f"Models of the namespace {self.namespace} don't serve.",
                    hint="Log it in the default namespace, or import it from this one",
                )
            if found.status in ("registered", "failed"):
                store.set_version(connection, found.id, status="pending", reason="")
                arguments = {"version_id": found.id}
                key = f"{PREPARE}/{found.id}/{new_id()}"
                self._jobs.enqueue(connection, PREPARE, key, arguments)
                details = {"version": found.version}
                audit.record(connection, actor, "request-preparation", resource, details)
            return self._version_by_id(connection, found.id)

    # Written by the job that prepares a version ------------------------------------------------

    def complete(
        self, actor: Principal, version: Version, info: bytes, requested: Mapping[str, object]
    ) -> Version:
        """Keep what the model of a registered version said of itself."""
        signature.read(info)
        with self._database.begin() as connection:
            store.set_version(
                connection,
                version.id,
                info=msgspec.json.decode(info),
                requested_environment=dict(requested),
            )
            resource = self._resource(version.model, version.owner_team)
            details = {"version": version.version}
            audit.record(connection, actor, "complete-version", resource, details)
            return self._version_by_id(connection, version.id)

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
            resource = self._resource(version.model, version.owner_team)
            details = {"version": version.version, "serving": serving}
            audit.record(connection, actor, "prepare-version", resource, details)

    def mark_failed(self, actor: Principal, version: Version, reason: str) -> None:
        with self._database.begin() as connection:
            store.set_version(connection, version.id, status="failed", reason=reason[:2000])
            resource = self._resource(version.model, version.owner_team)
            details = {"version": version.version, "reason": reason[:2000]}
            audit.record(connection, actor, "fail-version", resource, details)


def _next_sequence(found: ModelRow, asked: int | None) -> int:
    """The next number, or the one that was asked for: numbers were given once, also deleted ones.

    Raises `Conflict` if it is not above all that were given.
    """
    following: int = found.next_sequence
    if asked is None:
        return following
    if not 1 <= asked <= LAST_SEQUENCE:
        raise InvalidInput(f"A version's number is between 1 and {LAST_SEQUENCE}, not {asked}.")
    if asked < following:
        raise Conflict(
            f"{found.name} has given the number {asked} already; the next is {following}.",
            hint="Numbers go up only. Leave the number out to get the next one.",
        )
    return asked
