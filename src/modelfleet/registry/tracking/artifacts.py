"""Verbs on the files of runs and logged models. Their contents are blobs.

The bundles of registered versions can be read beside them, below `versions/<id of the version>`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

import sqlalchemy as sa

from modelfleet.core.authorization import Action, Principal, Resource, authorize
from modelfleet.core.clock import now_us
from modelfleet.core.errors import InvalidInput, NotFound, WrongState
from modelfleet.registry import store as registry_store
from modelfleet.registry.bundles import Entry
from modelfleet.registry.tables import model, model_version
from modelfleet.registry.tracking import paths
from modelfleet.registry.tracking.base import Verbs
from modelfleet.registry.tracking.dialect import below, upsert
from modelfleet.registry.tracking.tables import artifact, experiment, logged_model
from modelfleet.registry.tracking.types import FileInfo


class ArtifactVerbs(Verbs):
    def check_artifact(self, actor: Principal, path: str) -> str:
        """The path under which a file may be put. Look here before its bytes are taken."""
        plain = paths.clean_file(path)
        self._may_write(actor)
        with self._database.read() as connection:
            self._refuse_unwritable(connection, plain)
        return plain

    def put_artifact(self, actor: Principal, path: str, sha256: str, size: int) -> None:
        """Name a blob that is here; what had that name before is replaced."""
        plain = paths.clean_file(path)
        self._may_write(actor)
        row = {
            "namespace_id": self.namespace_id,
            "path": plain,
            "sha256": sha256,
            "size": size,
            "created_at": now_us(),
        }
        with self._database.begin() as connection:
            self._refuse_unwritable(connection, plain)
            connection.execute(upsert(connection, artifact), [row])

    def get_artifact(self, actor: Principal, path: str) -> tuple[str, int]:
        """Its digest and its size in bytes. Raises `NotFound`."""
        plain = paths.clean(path)
        self._may_read(actor)
        with self._database.read() as connection:
            version = paths.version_of(plain)
            if version is not None:
                return _in_bundle(self._bundle(connection, actor, version[0]), version[1])
            row = connection.execute(sa.select(artifact).where(self._at([plain]))).first()
            if row is not None:
                return row.sha256, row.size
            if connection.execute(self._in(connection, plain).limit(1)).first() is not None:
                raise InvalidInput(
                    f"Artifact path refers to a directory, not a file: '{plain[:300]}'"
                )
        raise NotFound(f"No such artifact: '{plain[:300]}'")

    def list_artifacts(self, actor: Principal, folder: str) -> list[FileInfo]:
        """What is directly in a folder, by name; nothing if there is none."""
        plain = paths.clean(folder)
        self._may_read(actor)
        start = len(plain) + 1 if plain else 0
        files: dict[str, FileInfo] = {}
        with self._database.read() as connection:
            version = paths.version_of(plain)
            if version is None:
                found = [(r.path, r.size) for r in connection.execute(self._in(connection, plain))]
            else:
                start = len(version[1]) + 1 if version[1] else 0
                inside = f"{version[1]}/" if version[1] else ""
                entries = self._bundle(connection, actor, version[0])
                found = [(e.path, e.size) for e in entries if e.path.startswith(inside)]
        for full, size in found:
            name, slash, _ = full[start:].partition("/")
            files[name] = FileInfo(name, bool(slash), 0 if slash else size)
        return [files[name] for name in sorted(files)]

    def delete_artifacts(self, actor: Principal, path: str) -> None:
        """A file, or a folder with all that is in it. Nothing frozen."""
        plain = paths.clean_file(path)
        _refuse_versions(plain)
        self._may_write(actor)
        with self._database.begin() as connection:
            inside = connection.execute(self._in(connection, plain)).all()
            found = [plain, *(row.path for row in inside)]
            owners = {owner for one in found if (owner := paths.model_of(one)) is not None}
            for owner in sorted(owners):
                self._refuse_frozen(connection, *owner)
            self._refuse_of_versions(connection, plain)
            below_it = below(connection, artifact.c.path, plain)
            own = artifact.c.namespace_id == self.namespace_id
            gone = connection.execute(
                sa.delete(artifact).where(own, sa.or_(artifact.c.path == plain, below_it))
            ).rowcount
            if gone:
                details: dict[str, object] = {"files": gone}
                self._record(
                    connection, actor, "delete-artifacts", "artifact", plain[:250], details
                )

    def run_folder(self, actor: Principal, run_id: str) -> tuple[str, str]:
        """Address and path of the files of a run. Raises `InvalidInput` if they are elsewhere."""
        self._may_read(actor)
        with self._database.read() as connection:
            row = self._run(connection, run_id)
        return _held(paths.join(row.artifact_location, row.id, "artifacts"))

    def model_folder(self, actor: Principal, model_id: str) -> tuple[str, str]:
        """Address and path of the files of a logged model."""
        self._may_read(actor)
        with self._database.read() as connection:
            row = self._model(connection, model_id)
        return _held(paths.join(row.artifact_location, "models", row.id, "artifacts"))

    def _bundle(
        self, connection: sa.Connection, actor: Principal, version_id: str
    ) -> tuple[Entry, ...]:
        """The files of a registered version; none if its bytes are elsewhere."""
        row = connection.execute(
            sa.select(model_version.c.bundle_digest, model.c.name, model.c.owner_team)
            .join(model, model.c.id == model_version.c.model_id)
            .where(model_version.c.id == version_id, model.c.namespace_id == self.namespace_id)
        ).first()
        if row is None:
            return ()
        authorize(actor, Action.READ, Resource("model", self._qualified(row.name), row.owner_team))
        return registry_store.entries(connection, row.bundle_digest) if row.bundle_digest else ()

    def _at(self, places: Sequence[str]) -> sa.ColumnElement[bool]:
        return sa.and_(
            artifact.c.namespace_id == self.namespace_id, artifact.c.path.in_(list(places))
        )

    def _in(self, connection: sa.Connection, folder: str) -> sa.Select[tuple[str, int]]:
        return sa.select(artifact.c.path, artifact.c.size).where(
            artifact.c.namespace_id == self.namespace_id,
            below(connection, artifact.c.path, folder),
        )

    def _refuse_unwritable(self, connection: sa.Connection, path: str) -> None:
        _refuse_versions(path)
        owner = paths.model_of(path)
        if owner is not None:
            self._refuse_frozen(connection, *owner)
        self._refuse_of_versions(connection, path)
        above = [str(one) for one in PurePosixPath(path).parents if str(one) != "."]
        if above and connection.execute(sa.select(artifact.c.path).where(self._at(above))).first():
            raise InvalidInput(f"A file is in the way of '{path[:300]}'.")
        if connection.execute(self._in(connection, path).limit(1)).first() is not None:
            raise InvalidInput(f"Artifact path refers to a directory, not a file: '{path[:300]}'")

    def _refuse_of_versions(self, connection: sa.Connection, path: str) -> None:
        """What a registered version was made of stays in its run, too."""
        match = re.search(r"(?:^|/)(\w{1,32})/artifacts(?:/(.*))?$", path)
        if match is None:
            return
        registered = connection.execute(
            sa.select(model_version.c.source_uri).where(
                model_version.c.run_id == match[1],
                model_version.c.bundle_digest.is_not(None),
                model_version.c.logged_model_id.is_(None),
            )
        )
        wanted = (match[2] or "").strip("/")
        for uri in registered.scalars():
            head, _, folder = uri.partition("/artifacts/")
            if uri.startswith("runs:/"):
                folder = uri.removeprefix("runs:/").partition("/")[2]
            inside = f"{wanted}/".startswith(f"{folder}/") or not folder
            if head and (inside or f"{folder}/".startswith(f"{wanted}/") or not wanted):
                raise WrongState(f"A version was registered from '{uri}': its files stay.")

    def _refuse_frozen(self, connection: sa.Connection, model_id: str, root: str) -> None:
        row = connection.execute(
            sa.select(logged_model.c.status, experiment.c.artifact_location)
            .join(experiment, experiment.c.id == logged_model.c.experiment_id)
            .where(logged_model.c.id == model_id, experiment.c.namespace_id == self.namespace_id)
        ).first()
        if row is None or row.status != "READY":
            return
        if paths.held(paths.join(row.artifact_location, "models", model_id, "artifacts")) == root:
            raise WrongState(f"Logged model {model_id} is READY: its files don't change any more.")


def _held(uri: str) -> tuple[str, str]:
    path = paths.held(uri)
    if path is None:
        raise InvalidInput(f"This server does not hold the artifacts at {uri[:300]}.")
    return uri, path


def _refuse_versions(path: str) -> None:
    if path == "versions" or path.startswith("versions/"):
        raise WrongState("The files of registered versions don't change.")


def _in_bundle(entries: Sequence[Entry], path: str) -> tuple[str, int]:
    for entry in entries:
        if entry.path == path:
            return entry.sha256, entry.size
    if any(entry.path.startswith(f"{path}/") for entry in entries):
        raise InvalidInput(f"Artifact path refers to a directory, not a file: '{path[:300]}'")
    raise NotFound(f"No such artifact: '{path[:300]}'")
