"""Versions of files that a client logged before: they are frozen into a bundle as they are.

Such a version is `registered`: its bytes are here and verified, but nothing was prepared for
serving yet. Where the bytes are elsewhere it is `external`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa

from modelfleet.core import audit
from modelfleet.core.authorization import (
    Action,
    Principal,
    Resource,
    authorize,
    authorize_somewhere,
)
from modelfleet.core.errors import NotFound
from modelfleet.lineage import Node, add_edge, rename_node
from modelfleet.registry import semver, store
from modelfleet.registry.base import ModelRow
from modelfleet.registry.bundles import Entry
from modelfleet.registry.code import check_code
from modelfleet.registry.models import ModelVerbs
from modelfleet.registry.semver import Semver
from modelfleet.registry.tables import model_version
from modelfleet.registry.tracking import paths
from modelfleet.registry.tracking.dialect import below
from modelfleet.registry.tracking.tables import artifact, experiment, logged_model, run
from modelfleet.registry.types import Version

SEMVER_TAG = "modelfleet.semver"
"""how clients that know tags alone read, and set, semantic versions"""
_ENVIRONMENT = frozenset(
    {"requirements.txt", "conda.yaml", "python_env.yaml", "MLmodel", "registered_model_meta"}
)
"""files that don't decide what a model answers"""


_LAST = (
    sa.select(model_version.c.semver, model_version.c.bundle_digest)
    .where(model_version.c.model_id == sa.bindparam("model"))
    .order_by(model_version.c.semver_sort_key.desc())
    .limit(1)
)


@dataclass(frozen=True)
class Source:
    """Where the files of a version are, as its caller says it."""

    uri: str
    entries: tuple[Entry, ...] = ()
    """the files themselves, if they were uploaded"""
    folder: str | None = None
    """their folder among the artifacts of the namespace; None: we don't hold them"""
    same_as: Version | None = None
    """a version whose bundle this is"""
    run_id: str | None = None
    run_link: str = ""
    logged_model_id: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    description: str = ""
    code: Mapping[str, object] | None = None
    sequence: int | None = None
    """as of `NewVersion`"""


class AdoptionVerbs(ModelVerbs):
    def run_folder(self, actor: Principal, run_id: str) -> str | None:
        """Where the artifacts of a run are; None if not here. Raises `NotFound`."""
        with self._database.read() as connection:
            row = connection.execute(
                sa.select(experiment.c.artifact_location)
                .join(run, run.c.experiment_id == experiment.c.id)
                .where(run.c.id == run_id, experiment.c.namespace_id == self.namespace_id)
            ).first()
        authorize_somewhere(actor, Action.READ, Resource("run", run_id))
        if row is None:
            raise NotFound(f"There is no run {run_id}.")
        return paths.held(paths.join(row.artifact_location, run_id, "artifacts"))

    def logged_model_folder(self, actor: Principal, model_id: str) -> tuple[str | None, str | None]:
        """Where the files of a logged model are (None: not here), and the run that logged it."""
        with self._database.read() as connection:
            row = connection.execute(
                sa.select(experiment.c.artifact_location, logged_model.c.source_run_id)
                .join(logged_model, logged_model.c.experiment_id == experiment.c.id)
                .where(
                    logged_model.c.id == model_id,
                    logged_model.c.deleted_at.is_(None),
                    experiment.c.namespace_id == self.namespace_id,
                )
            ).first()
        authorize_somewhere(actor, Action.READ, Resource("logged-model", model_id))
        if row is None:
            raise NotFound(f"Logged model with ID '{model_id}' not found.")
        place = paths.join(row.artifact_location, "models", model_id, "artifacts")
        return paths.held(place), row.source_run_id

    def adopt(self, actor: Principal, name: str, source: Source) -> int:
        """A new version of what was logged; its semantic version from the tag, or proposed.

        The sequence number of the version.
        """
        with self._database.begin() as connection:
            found = self._row(connection, name)
            resource = self._resource(found.name, found.owner_team)
            authorize(actor, Action.REGISTER, resource)
            entries = self._files(connection, source)
            digest = self._bundles.check(entries) if entries else None
            check_code(self._bundles, source.code)
            if digest:
                store.add_bundle(connection, digest, entries)
            tags = dict(source.tags)
            number = self._number(connection, found, tags.pop(SEMVER_TAG, None), entries, digest)
            _, sequence = self._insert(
                connection,
                actor,
                found,
                number,
                tags,
                asked=source.sequence,
                status="registered" if digest else "external",
                bundle_digest=digest,
                info=None,
                run_id=source.run_id,
                run_link=source.run_link,
                source_uri=source.uri,
                logged_model_id=source.logged_model_id,
                code=dict(source.code) if source.code else None,
                description=source.description,
            )
            self._link(connection, found, number, source)
            return sequence

    def _files(self, connection: sa.Connection, source: Source) -> tuple[Entry, ...]:
        if source.same_as is not None:
            return store.entries(connection, source.same_as.bundle_digest)
        if source.entries or source.folder is None:
            return source.entries
        return files_below(connection, self.namespace_id, source.folder)

    def _number(
        self,
        connection: sa.Connection,
        found: ModelRow,
        asked: str | None,
        entries: Sequence[Entry],
        digest: str | None,
    ) -> Semver:
        if asked is not None:
            number = semver.parse(asked)
            self._refuse_taken(connection, found, number)
            return number
        last = connection.execute(_LAST, {"model": found.id}).first()
        if last is None:
            return Semver(1, 0, 0)
        before = store.entries(connection, last.bundle_digest or "")
        kept = digest is not None and last.bundle_digest == digest
        return semver.propose(
            semver.parse(last.semver),
            compatible=self._signature(before) == self._signature(entries),
            same_content=kept or (bool(entries) and _content(before) == _content(entries)),
        )

    def _signature(self, entries: Sequence[Entry]) -> str | None:
        """The signature in `MLmodel`, as text; None if it has none."""
        if not any(entry.path == "MLmodel" for entry in entries):
            return None
        text = self._bundles.read(entries, "MLmodel").decode("utf-8", "replace")
        match = re.search(r"^signature:\n((?:[ \t]+.*\n?)+)", text, re.MULTILINE)
        return match[1] if match else None

    def _link(
        self, connection: sa.Connection, found: ModelRow, number: Semver, source: Source
    ) -> None:
        version = Node("version", self._qualified(f"{found.name}@{number}"))
        if source.run_id:
            known = connection.execute(sa.select(run.c.id).where(run.c.id == source.run_id))
            if known.first() is not None:
                add_edge(connection, Node("run", source.run_id), "produced", version)
        if source.same_as is not None:
            origin = Node("version", self._qualified(source.same_as.name))
            add_edge(connection, origin, "copied", version)

    def set_semver(self, actor: Principal, name: str, reference: str, number: str) -> Version:
        """Renumber a version that nothing holds yet."""
        wanted = semver.parse(number)
        with self._database.begin() as connection:
            found = self._version(connection, name, reference)
            resource = self._resource(found.model, found.owner_team)
            authorize(actor, Action.REGISTER, resource)
            if found.version == str(wanted):
                return found
            self._refuse_if_held(connection, found)
            self._refuse_taken(connection, self._row(connection, name), wanted)
            old, new = (self._qualified(f"{name}@{n}") for n in (found.version, wanted))
            rename_node(connection, Node("version", old), Node("version", new))
            store.set_version(
                connection, found.id, semver=str(wanted), semver_sort_key=wanted.sort_key
            )
            details = {"before": found.version, "version": str(wanted)}
            audit.record(connection, actor, "renumber-version", resource, details)
            self._ready.pop(found.id, None)
            return self._version_by_id(connection, found.id)


def _content(entries: Sequence[Entry]) -> set[tuple[str, str]]:
    return {(e.path, e.sha256) for e in entries if e.path not in _ENVIRONMENT}


def files_below(connection: sa.Connection, namespace_id: str, folder: str) -> tuple[Entry, ...]:
    """The files of an artifact folder, as entries of a bundle."""
    plain = folder.strip("/")
    rows = connection.execute(
        sa.select(artifact.c.path, artifact.c.sha256, artifact.c.size)
        .where(artifact.c.namespace_id == namespace_id, below(connection, artifact.c.path, plain))
        .order_by(artifact.c.path)
    )
    return tuple(Entry(r.path.removeprefix(f"{plain}/"), r.sha256, r.size) for r in rows)
