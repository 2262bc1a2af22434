"""Models, versions, aliases, runs and uploads."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any
from urllib.parse import urlsplit

import anyio
import anyio.from_thread
import msgspec
from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from modelfleet.api.base import Caller, FleetDep, permits
from modelfleet.core.authorization import Action, Principal, Resource, authorize_somewhere
from modelfleet.core.errors import InvalidInput
from modelfleet.gates import GateRun, list_runs
from modelfleet.lineage import Edge, Node
from modelfleet.registry import Entry, Model, NewVersion, Run, Variant, Version
from modelfleet.registry.adoption import SEMVER_TAG, Source
from modelfleet.serving.progress import Progress
from modelfleet.views.tracing import Direction, trace
from modelfleet.wiring import Fleet

router = APIRouter(prefix="/v1", tags=["registry"])


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ModelBody(Body):
    name: str
    owner_team: str
    business_function: str | None = None
    criticality: str | None = None
    isolation: str | None = None
    description: str = ""
    tags: dict[str, str] = Field(default_factory=dict)
    template: str = ""
    """of the owner team: says what is not given here"""


class ModelChanges(Body):
    business_function: str | None = None
    criticality: str | None = None
    isolation: str | None = None
    description: str | None = None
    tags: dict[str, str] | None = None


class EntryBody(Body):
    path: str
    sha256: str
    size: int
    mode: int = 0o644


class VersionBody(Body):
    entries: list[EntryBody]
    requirements: list[str]
    python: str
    compile: bool = True
    version: str | None = None
    experiment: str = "Default"
    run_name: str = ""
    parameters: dict[str, str] = Field(default_factory=dict)
    metrics: dict[str, FiniteFloat] = Field(default_factory=dict)
    dataset: str = ""
    git_commit: str = ""
    uses: list[str] = Field(default_factory=list)
    tags: dict[str, str] = Field(default_factory=dict)
    description: str = ""
    code: dict[str, Any] | None = None
    hardware: dict[str, Any] | None = None
    source_uri: str = ""
    """where it comes from. Without entries: where its files stay; the version is `external`"""
    run_id: str | None = None
    """a run that is here; the version is bound to it"""
    sequence: int | None = None
    """a version number to keep, above all that the model has given; else the next"""


class AliasBody(Body):
    version: str
    protected: bool | None = None
    """None leaves it as it is"""


class VersionDetails(BaseModel):
    version: Version
    progress: Progress | None = None
    """of a pending version that is being prepared"""
    variants: list[Variant]
    gates: list[GateRun]
    files: list[EntryBody]


class Upload(BaseModel):
    sha256: str
    offset: int
    """bytes held of an upload that is not complete"""
    complete: bool


class Blob(BaseModel):
    sha256: str
    size: int


@router.post("/models", status_code=201, **permits(Action.REGISTER))
def create_model(fleet: FleetDep, caller: Caller, body: ModelBody) -> Model:
    return fleet.registry.create_model(caller, **body.model_dump())


@router.get("/models", **permits(Action.READ))
def list_models(
    fleet: FleetDep,
    caller: Caller,
    team: str | None = None,
    text: str | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    offset: Annotated[int, Query(ge=0)] = 0,
) -> list[Model]:
    return fleet.registry.list_models(caller, team=team, text=text, limit=limit, offset=offset)


@router.get("/models/{name}", **permits(Action.READ))
def get_model(fleet: FleetDep, caller: Caller, name: str) -> Model:
    return fleet.registry.get_model(caller, name)


@router.patch("/models/{name}", **permits(Action.REGISTER))
def update_model(fleet: FleetDep, caller: Caller, name: str, body: ModelChanges) -> Model:
    return fleet.registry.update_model(caller, name, **body.model_dump())


@router.delete("/models/{name}", status_code=204, **permits(Action.DELETE))
def delete_model(fleet: FleetDep, caller: Caller, name: str) -> None:
    fleet.registry.delete_model(caller, name)


@router.post("/models/{name}/versions", status_code=201, **permits(Action.REGISTER))
def register(fleet: FleetDep, caller: Caller, name: str, body: VersionBody) -> Version:
    entries = tuple(Entry(**entry.model_dump()) for entry in body.entries)
    paths = {entry.path for entry in entries}
    if "bundle.json" not in paths and ("MLmodel" in paths or body.source_uri):
        return _register_as_logged(fleet, caller, name, body, entries)
    given = body.model_dump(exclude={"entries", "requirements", "uses", "source_uri"})
    new = NewVersion(
        entries=entries,
        requirements=tuple(body.requirements),
        uses=tuple(body.uses),
        **given,
    )
    return fleet.registry.register(caller, name, new)


def _register_as_logged(
    fleet: Fleet, caller: Principal, name: str, body: VersionBody, entries: tuple[Entry, ...]
) -> Version:
    """Files as they are, or the address of files elsewhere; prepared when it is to be deployed."""
    if not entries:
        _check_address(body.source_uri)
    if body.run_id is not None:
        fleet.registry.get_run(caller, body.run_id)
    tags = body.tags | ({SEMVER_TAG: body.version} if body.version else {})
    source = Source(
        body.source_uri or "upload:/",
        entries=entries,
        run_id=body.run_id,
        tags=tags,
        description=body.description,
        sequence=body.sequence,
        code=body.code,
    )
    sequence = fleet.registry.adopt(caller, name, source)
    return fleet.registry.get_version(caller, name, str(sequence))


def _check_address(uri: str) -> None:
    """Of files elsewhere. Nobody here reads it, but clients may: no path of anybody's disk."""
    if urlsplit(uri).scheme in ("", "file") or not uri.isprintable() or len(uri) > 2000:
        raise InvalidInput(
            f"{uri[:200]!r} is not the address of files elsewhere, such as s3://bucket/model."
        )


@router.get("/models/{name}/versions", **permits(Action.READ))
def list_versions(fleet: FleetDep, caller: Caller, name: str) -> list[Version]:
    return fleet.registry.list_versions(caller, name)


@router.get("/versions", **permits(Action.READ))
def all_versions(
    fleet: FleetDep, caller: Caller, limit: Annotated[int, Query(ge=1, le=10_000)] = 1000
) -> list[Version]:
    """Newest first, of all models."""
    return fleet.registry.list_versions(caller, limit=limit)


@router.get("/models/{name}/versions/{version}", **permits(Action.READ))
def get_version(fleet: FleetDep, caller: Caller, name: str, version: str) -> VersionDetails:
    """`version` is a semantic version, a sequence number, an alias or `latest`."""
    found = fleet.registry.get_version(caller, name, version)
    return VersionDetails(
        version=found,
        progress=fleet.prepare.progress(found.id) if found.status == "pending" else None,
        variants=fleet.registry.variants([found.id]).get(found.id, []),
        gates=list_runs(fleet.database, found.id),
        files=[
            EntryBody(**msgspec.to_builtins(entry))
            for entry in fleet.registry.entries(found.bundle_digest)
        ],
    )


@router.post("/models/{name}/versions/{version}/prepare", **permits(Action.REGISTER))
def prepare(fleet: FleetDep, caller: Caller, name: str, version: str) -> Version:
    """Make a version ready that was only registered, as MLflow's clients do, or that failed."""
    return fleet.registry.prepare(caller, name, version)


@router.delete("/models/{name}/versions/{version}", status_code=204, **permits(Action.DELETE))
def delete_version(fleet: FleetDep, caller: Caller, name: str, version: str) -> None:
    fleet.registry.delete_version(caller, name, version)


@router.get("/models/{name}/versions/{version}/lineage", **permits(Action.READ))
def lineage(
    fleet: FleetDep,
    caller: Caller,
    name: str,
    version: str,
    direction: Direction = Direction.UPSTREAM,
) -> list[Edge]:
    """What it was made of, or what was made of it, nearest first; each edge once."""
    found = fleet.registry.get_version(caller, name, version)
    return trace(fleet, caller, Node("version", found.name), direction)


@router.put("/models/{name}/aliases/{alias}", **permits(Action.REGISTER))
def set_alias(fleet: FleetDep, caller: Caller, name: str, alias: str, body: AliasBody) -> Version:
    return fleet.registry.set_alias(caller, name, alias, body.version, protected=body.protected)


@router.delete("/models/{name}/aliases/{alias}", status_code=204, **permits(Action.REGISTER))
def delete_alias(fleet: FleetDep, caller: Caller, name: str, alias: str) -> None:
    fleet.registry.delete_alias(caller, name, alias)


@router.get("/runs/{run_id}", **permits(Action.READ))
def get_run(fleet: FleetDep, caller: Caller, run_id: str) -> Run:
    return fleet.registry.get_run(caller, run_id)


@router.head("/blobs/{sha256}", **permits(Action.REGISTER))
def has_blob(fleet: FleetDep, caller: Caller, sha256: str) -> Response:
    authorize_somewhere(caller, Action.REGISTER, Resource("blob", sha256))
    if not fleet.blobs.has(sha256):
        return Response(status_code=404)
    fleet.blobs.touch(sha256)  # its caller counts on it: garbage collection waits
    return Response(status_code=200)


@router.put("/blobs/{sha256}", status_code=201, **permits(Action.REGISTER))
async def put_blob(fleet: FleetDep, caller: Caller, sha256: str, request: Request) -> Blob:
    """The body is the content; it is refused if its digest is another one."""
    authorize_somewhere(caller, Action.REGISTER, Resource("blob", sha256))
    stream = request.stream()

    def store() -> Blob:
        found, size = fleet.blobs.put(_chunks(stream), expected=sha256)
        return Blob(sha256=found, size=size)

    return await anyio.to_thread.run_sync(store)


@router.get("/uploads/{sha256}", **permits(Action.REGISTER))
def upload_state(fleet: FleetDep, caller: Caller, sha256: str) -> Upload:
    """How far the upload of a large content is."""
    authorize_somewhere(caller, Action.REGISTER, Resource("blob", sha256))
    whole = fleet.blobs.has(sha256)
    return Upload(sha256=sha256, offset=0 if whole else fleet.blobs.held(sha256), complete=whole)


@router.patch("/uploads/{sha256}", **permits(Action.REGISTER))
async def go_on_uploading(
    fleet: FleetDep,
    caller: Caller,
    sha256: str,
    request: Request,
    offset: Annotated[int, Query(ge=0)],
    size: Annotated[int, Query(ge=1)],
) -> Upload:
    """The body is the content from `offset` on, or a part of that; `size` is that of the whole.

    A broken upload goes on where `GET` says it stands.
    """
    authorize_somewhere(caller, Action.REGISTER, Resource("blob", sha256))
    stream = request.stream()

    def store() -> Upload:
        held = fleet.blobs.append(sha256, offset, size, _chunks(stream))
        return Upload(sha256=sha256, offset=held, complete=held == size)

    return await anyio.to_thread.run_sync(store)


def _chunks(stream: AsyncIterator[bytes]) -> Iterator[bytes]:
    """An async stream, read from a worker thread."""

    async def following() -> bytes | None:
        return await anext(stream, None)

    while (chunk := anyio.from_thread.run(following)) is not None:
        yield chunk
