"""Files of runs and logged models. They go through this server, each in one PUT or GET."""

from __future__ import annotations

import mimetypes
import unicodedata
from collections.abc import AsyncIterator, Iterator
from pathlib import PurePosixPath
from urllib.parse import quote

import anyio.from_thread
import anyio.to_thread
from starlette.requests import ClientDisconnect
from starlette.responses import FileResponse, Response

from modelfleet.compat.mlflow import wire
from modelfleet.compat.mlflow.errors import MlflowError, invalid
from modelfleet.compat.mlflow.routing import Call, missing_parameter, route
from modelfleet.compat.mlflow.wire import Json
from modelfleet.core.errors import FleetError, Unavailable
from modelfleet.registry.tracking import paths

_FILES = "/api/2.0/mlflow-artifacts/"
SMALL = 4 * 2**20
"""bytes; what is not larger is taken into memory before it is written"""
DRAINED = 64 * 2**20
"""bytes of a refused body that are read, so that the client hears the answer"""
_TEXT = frozenset(
    "txt log err cfg conf cnf cf ini properties prop hocon toml yaml yml xml json js py py3 csv "
    "tsv md rst MLmodel MLproject".split()
)


@route("GET", f"{_FILES}artifacts")
def list_files(call: Call) -> Json:
    found = call.tracking.list_artifacts(call.caller, call.optional("path") or "")
    return wire.filled(files=[wire.file_info(one, one.path) for one in found])


@route("GET", f"{_FILES}artifacts/{{path:path}}")
def download(call: Call) -> Response:
    return send(call, call.path["path"])


@route("DELETE", f"{_FILES}artifacts/{{path:path}}")
def delete(call: Call) -> Json:
    call.tracking.delete_artifacts(call.caller, call.path["path"])
    return {}


@route("PUT", f"{_FILES}artifacts/{{path:path}}", streams=True)
async def upload(call: Call) -> Response:
    """The body is the file. It is there when all of it is, under its name, or not at all."""
    stream = call.request.stream()
    small = await _small(call, stream)
    if small is None:  # refuse before the bytes are taken
        await _check(call, stream)

    def store() -> None:
        if small is not None:
            call.tracking.check_artifact(call.caller, call.path["path"])
        chunks = _chunks(stream) if small is None else iter([small])
        sha256, size = call.fleet.blobs.put(chunks)
        call.tracking.put_artifact(call.caller, call.path["path"], sha256, size)

    try:
        await anyio.to_thread.run_sync(store)
    except Unavailable as error:  # not 503: clients would try for minutes
        raise MlflowError("RESOURCE_EXHAUSTED", f"{error.message} {error.hint}", 507) from error
    except ClientDisconnect as error:
        raise invalid("The upload broke off.") from error
    return Response(b"{}", media_type="application/json")


async def _check(call: Call, stream: AsyncIterator[bytes]) -> None:
    try:
        path = call.path["path"]
        await anyio.to_thread.run_sync(call.tracking.check_artifact, call.caller, path)
    except FleetError:
        await _drain(stream)
        raise


async def _small(call: Call, stream: AsyncIterator[bytes]) -> bytes | None:
    """The whole body if it says that it is small."""
    length = call.request.headers.get("content-length", "")
    if not length.isdigit() or int(length) > SMALL:
        return None
    try:
        return b"".join([chunk async for chunk in stream])
    except ClientDisconnect as error:
        raise invalid("The upload broke off.") from error


async def _drain(stream: AsyncIterator[bytes]) -> None:
    seen = 0
    try:
        async for chunk in stream:
            seen += len(chunk)
            if seen > DRAINED:
                return
    except ClientDisconnect:
        return


def _chunks(stream: AsyncIterator[bytes]) -> Iterator[bytes]:
    """An async stream, read from a worker thread."""

    async def following() -> bytes | None:
        return await anext(stream, None)

    while (chunk := anyio.from_thread.run(following)) is not None:
        yield chunk


@route("POST", *(f"{_FILES}mpu/{verb}/{{path:path}}" for verb in ("create", "complete", "abort")))
def multipart(call: Call) -> Json:
    raise MlflowError(
        "NOT_IMPLEMENTED", "Multipart upload is not supported for the current artifact repository"
    )


@route("GET", f"{_FILES}presigned/{{path:path}}")
def presigned(call: Call) -> Json:
    raise MlflowError(
        "NOT_IMPLEMENTED", "Multipart download is not supported for the current artifact repository"
    )


@route("POST", "artifacts/presigned-upload-url")
def presigned_upload(call: Call) -> Json:
    run_id, model_id = call.optional("run_id"), call.optional("model_id")
    paths.clean(call.text("path"))
    if bool(run_id) == bool(model_id):
        raise invalid("Exactly one of run_id and model_id must be provided.")
    uri, _ = (
        call.tracking.run_folder(call.caller, run_id)
        if run_id
        else call.tracking.model_folder(call.caller, model_id or "")
    )
    raise invalid(
        "Presigned upload is not supported for proxied artifact storage (artifact URI scheme: "
        f"{uri.partition(':')[0]}). This endpoint requires a direct cloud storage artifact URI."
    )


@route("POST", "artifacts/presigned-download-url")
def presigned_download(call: Call) -> Json:
    run_id = call.text("run_id")
    paths.clean(call.text("path"))
    uri, _ = call.tracking.run_folder(call.caller, run_id)
    raise invalid(
        "Presigned download is not supported for runs with proxied artifact storage (artifact URI "
        f"scheme: {uri.partition(':')[0]}). This endpoint requires a run with a direct cloud "
        "storage artifact URI."
    )


@route("GET", "artifacts/list")
def list_of_run(call: Call) -> Json:
    uri, root = call.tracking.run_folder(call.caller, call.text("run_id", "run_uuid"))
    return wire.folder(call.tracking, call.caller, uri, root, call.optional("path") or "")


@route("GET", "/get-artifact")
def download_of_run(call: Call) -> Response:
    """What MLflow's own pages link to."""
    path = call.text("path")
    _, root = call.tracking.run_folder(call.caller, call.text("run_id", "run_uuid"))
    return send(call, f"{root}/{paths.clean_file(path)}")


@route("GET", "logged-models/{model_id}/artifacts/files")
def download_of_model(call: Call) -> Response:
    path = call.optional("artifact_file_path")
    if not path:
        raise missing_parameter("artifact_file_path")
    _, root = call.tracking.model_folder(call.caller, call.path["model_id"])
    return send(call, f"{root}/{paths.clean_file(path)}")


def send(call: Call, path: str) -> Response:
    """A file, never to be shown by a browser on our address."""
    sha256, size = call.tracking.get_artifact(call.caller, path)
    name = PurePosixPath(paths.clean(path)).name
    headers = {
        "content-type": content_type(name),
        "content-disposition": disposition(name),
        "x-content-type-options": "nosniff",
        "etag": f'"{sha256}"',
    }
    place = call.fleet.blobs.path(sha256)
    if size <= SMALL and "range" not in call.request.headers:
        return Response(place.read_bytes(), headers=headers)
    return FileResponse(place, headers=headers)


def content_type(name: str) -> str:
    extension = PurePosixPath(name).suffix.lstrip(".") or name
    if extension in _TEXT:
        return "text/plain"
    return mimetypes.guess_type(name)[0] or "application/octet-stream"


def disposition(name: str) -> str:
    """RFC 6266: an ASCII name, and the true one where it is another."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode() or "download"
    token = all(one.isalnum() or one in "!#$&+-.^_`|~" for one in plain)
    quoted = plain if token else '"' + plain.replace("\\", "\\\\").replace('"', '\\"') + '"'
    exact = "" if name.isascii() else f"; filename*=UTF-8''{quote(name, safe='!#$&+-.^_`|~')}"
    return f"attachment; filename={quoted}{exact}"
