"""Data sets with versions: named tables that gates measure on. Contents are blobs.

Verbs: `push` (the same content again is the same version), `get`, `list`, `versions`, `path`.
`NAME@3` is a version, `NAME@latest` the newest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from modelfleet.core import audit
from modelfleet.core.authorization import Action, Principal, Resource, authorize
from modelfleet.core.blobs import BlobStore
from modelfleet.core.clock import iso, now_us
from modelfleet.core.database import Database, Json, metadata
from modelfleet.core.errors import InvalidInput, NotFound
from modelfleet.core.ids import new_id
from modelfleet.lineage import Node, add_edge

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,118}[A-Za-z0-9])?")
FORMATS = ("csv", "parquet")
MOST_BYTES = 2 * 2**30

dataset = sa.Table(
    "data_set",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("name", sa.String(120), nullable=False, unique=True),
    sa.Column("owner_team", sa.String(120), nullable=False),
    sa.Column("description", sa.Text, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
)

dataset_version = sa.Table(
    "data_set_version",
    metadata,
    sa.Column("dataset_id", sa.ForeignKey("data_set.id"), primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("format", sa.String(20), nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("rows", sa.BigInteger, nullable=False),
    sa.Column("columns", Json, nullable=False),
    sa.Column("created_by", sa.String(200), nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("dataset_id", "sha256"),
)


@dataclass(frozen=True)
class DatasetVersion:
    name: str
    version: int
    owner_team: str
    sha256: str
    format: str
    bytes: int
    rows: int
    columns: Mapping[str, str]
    """types by name"""
    created_by: str
    created_at: str
    description: str = ""

    @property
    def reference(self) -> str:
        return f"{self.name}@{self.version}"


@dataclass(frozen=True)
class Described:
    rows: int
    columns: Mapping[str, str]


class DatasetService:
    def __init__(self, database: Database, blobs: BlobStore) -> None:
        self._database = database
        self._blobs = blobs

    def push(
        self,
        actor: Principal,
        name: str,
        sha256: str,
        format: str,  # noqa: A002
        *,
        team: str | None = None,
        description: str = "",
    ) -> DatasetVersion:
        """A new version of content that was uploaded; the known one if it has that content.

        team: of a data set that is new. Raises `InvalidInput` for what is no table.
        """
        if not _NAME.fullmatch(name):
            raise InvalidInput(f"{name[:120]!r} can't name a data set.")
        with self._database.read() as connection:
            known = _head(connection, name)
        owner = known.owner_team if known is not None else team
        if owner is None:
            raise InvalidInput(f"{name} is new: whose is it?", hint="Name its team: --team TEAM.")
        resource = Resource("dataset", name, owner)
        authorize(actor, Action.REGISTER, resource)
        path = self._blobs.path(sha256)
        if path.stat().st_size > MOST_BYTES:
            raise InvalidInput(f"A data set has at most {MOST_BYTES >> 30} GiB.")
        found = describe(path, format)
        with self._database.begin() as connection:
            head = _head(connection, name)
            identifier = (
                head.id if head is not None else self._create(connection, name, owner, description)
            )
            same = _versions(connection, dataset.c.name == name, dataset_version.c.sha256 == sha256)
            if same:
                return same[0]
            last = connection.execute(
                sa.select(sa.func.max(dataset_version.c.version)).where(
                    dataset_version.c.dataset_id == identifier
                )
            ).scalar()
            version = (last or 0) + 1
            connection.execute(
                sa.insert(dataset_version).values(
                    dataset_id=identifier,
                    version=version,
                    sha256=sha256,
                    format=format,
                    bytes=path.stat().st_size,
                    rows=found.rows,
                    columns=dict(found.columns),
                    created_by=actor.name,
                    created_at=now_us(),
                )
            )
            self._blobs.touch(sha256)
            details = {"version": version, "sha256": sha256, "rows": found.rows}
            audit.record(connection, actor, "push-dataset", resource, details)
            if version > 1:
                older = Node("dataset", f"{name}@{version - 1}")
                add_edge(connection, older, "derived", Node("dataset", f"{name}@{version}"))
            return _versions(
                connection, dataset.c.name == name, dataset_version.c.version == version
            )[0]

    def _create(self, connection: sa.Connection, name: str, team: str, description: str) -> str:
        identifier = new_id()
        connection.execute(
            sa.insert(dataset).values(
                id=identifier,
                name=name,
                owner_team=team,
                description=description,
                created_at=now_us(),
            )
        )
        return identifier

    def get(self, actor: Principal, reference: str) -> DatasetVersion:
        """By `NAME@3`, `NAME@latest` or `NAME`."""
        with self._database.read() as connection:
            return read_in(connection, actor, reference)

    def list(self, actor: Principal) -> Sequence[DatasetVersion]:
        """The newest version of each."""
        with self._database.read() as connection:
            found = _versions(connection)
        newest = {one.name: one for one in found if actor.may(Action.READ, one.owner_team)}
        return list(newest.values())

    def versions(self, actor: Principal, name: str) -> Sequence[DatasetVersion]:
        """Oldest first."""
        self.get(actor, name)
        with self._database.read() as connection:
            return _versions(connection, dataset.c.name == name)

    def path(self, found: DatasetVersion) -> Path:
        return self._blobs.path(found.sha256)


def find_in(connection: sa.Connection, reference: str) -> DatasetVersion:
    """For the platform's own rooms: no check of who asks. Raises `NotFound`."""
    name, _, version = reference.partition("@")
    condition = [dataset.c.name == name]
    if version and version != "latest":
        if not (version.isascii() and version.isdigit()):
            raise InvalidInput(f"{reference[:160]!r} names no version.", hint="Write NAME@3.")
        condition.append(dataset_version.c.version == int(version[:9]))
    found = _versions(connection, *condition)
    if not found:
        raise NotFound(f"There is no data set {reference}.", hint="See: modelfleet datasets list")
    return found[-1]


def read_in(connection: sa.Connection, actor: Principal, reference: str) -> DatasetVersion:
    """For somebody. Raises `NotFound`, or `NotAllowed` for that of a team they can't read."""
    found = find_in(connection, reference)
    authorize(actor, Action.READ, Resource("dataset", found.name, found.owner_team))
    return found


def blobs_of(connection: sa.Connection) -> set[str]:
    """Contents that data sets name."""
    return set(connection.execute(sa.select(dataset_version.c.sha256)).scalars())


def _head(connection: sa.Connection, name: str) -> sa.Row[tuple[Any, ...]] | None:
    return connection.execute(sa.select(dataset).where(dataset.c.name == name)).first()


def _versions(
    connection: sa.Connection, *conditions: sa.ColumnElement[bool]
) -> list[DatasetVersion]:
    query = (
        sa.select(dataset_version, dataset.c.name, dataset.c.owner_team, dataset.c.description)
        .join(dataset, dataset.c.id == dataset_version.c.dataset_id)
        .where(*conditions)
        .order_by(dataset.c.name, dataset_version.c.version)
    )
    return [
        DatasetVersion(
            r.name,
            r.version,
            r.owner_team,
            r.sha256,
            r.format,
            r.bytes,
            r.rows,
            r.columns,
            r.created_by,
            iso(r.created_at),
            r.description,
        )
        for r in connection.execute(query)
    ]


def describe(path: Path, format: str) -> Described:  # noqa: A002
    """Rows and columns of a table. Raises `InvalidInput` for what is none."""
    import pyarrow as pa
    import pyarrow.csv as csv
    import pyarrow.parquet as pq

    if format not in FORMATS:
        raise InvalidInput(f"{format[:20]!r} is no format of tables.", hint="Known: csv, parquet.")
    try:
        if format == "parquet":
            file = pq.ParquetFile(path)
            rows, schema = file.metadata.num_rows, file.schema_arrow
        else:
            rows = 0
            with csv.open_csv(path) as reader:
                schema = reader.schema
                for batch in reader:
                    rows += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        raise InvalidInput(f"It can't be read as {format}: {str(error)[:300]}") from error
    names = schema.names
    if len(set(names)) < len(names):
        raise InvalidInput("It names a column twice.")
    if not rows:
        raise InvalidInput("It has no rows.")
    return Described(rows, {one.name: str(one.type) for one in schema})
