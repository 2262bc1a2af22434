"""Versions of registered models."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote, urlsplit

from modelfleet.compat.mlflow import pages, shapes
from modelfleet.compat.mlflow.errors import MlflowError, invalid
from modelfleet.compat.mlflow.models import (
    check_tag,
    model_name,
    not_found,
    our_stage,
    tags,
    version_number,
)
from modelfleet.compat.mlflow.routing import Call, route
from modelfleet.core.errors import NotFound
from modelfleet.registry.adoption import SEMVER_TAG, Source
from modelfleet.registry.base import PROMPT_TAG
from modelfleet.registry.listing import VersionSummary
from modelfleet.registry.types import Version

REMOTE = frozenset(
    {"s3", "s3a", "gs", "wasb", "wasbs", "abfss", "http", "https", "dbfs", "uc", "ftp", "sftp"}
)
"""schemes of stores that we don't hold: such a version registers, but can't be deployed"""


@route("POST", "model-versions/create")
def create(call: Call) -> dict[str, Any]:
    name, uri, given = model_name(call), call.text("source"), tags(call)
    source = _source(call, uri, given)
    with not_found(name):
        made = call.registry.adopt(call.caller, name, source)
    return _shown(call, name, str(made))


def _source(call: Call, uri: str, given: dict[str, str]) -> Source:
    run_id, model_id = call.optional("run_id"), call.optional("model_id")
    common: dict[str, Any] = {
        "run_link": call.optional("run_link") or "",
        "tags": given,
        "description": call.optional("description") or "",
    }
    if given.get(PROMPT_TAG, "").lower() == "true":
        return Source(uri, run_id=run_id, logged_model_id=model_id, **common)
    _refuse_relative(uri)
    parts = urlsplit(uri)
    if parts.scheme == "models":
        return _copied(call, uri, parts.path, run_id, model_id, common)
    if parts.scheme == "runs":
        return _of_run(call, uri, parts.path, run_id, common)
    inside = _artifact_path(uri)
    if inside is not None:
        return _of_artifacts(call, uri, inside, run_id, model_id, common)
    if parts.scheme not in REMOTE:
        what = "local path" if parts.scheme in ("", "file") else f"'{parts.scheme}' path"
        raise invalid(
            f"Invalid model version source: '{uri}'. To use a {what} as a model version source, "
            "the run_id request parameter has to be specified and the local path has to be "
            "contained within the artifact directory of the run specified by the run_id."
        )
    return Source(uri, run_id=run_id, logged_model_id=model_id, **common)


def _refuse_relative(uri: str) -> None:
    plain = uri
    while (once := unquote(plain)) != plain:
        plain = once
    if any(part == ".." for part in re.split(r"[/\\]", plain)) or not plain.isprintable():
        raise invalid(
            f"Invalid model version source: '{uri}'. If supplying a source as an http, https, "
            "local file path, ftp, objectstore, or mlflow-artifacts uri, an absolute path must be "
            "provided without relative path references present. Please provide an absolute path."
        )


def _not_inside(uri: str, parameter: str) -> MlflowError:
    return invalid(
        f"Invalid model version source: '{uri}'. The {parameter} request parameter must identify "
        "the resource that contains the source."
    )


def _copied(
    call: Call,
    uri: str,
    path: str,
    run_id: str | None,
    model_id: str | None,
    common: dict[str, Any],
) -> Source:
    """`models:/m-<id>` is a logged model; `models:/name/3`, `@alias` are versions of ours."""
    rest = path.strip("/")
    if re.fullmatch(r"m-[0-9a-f]{32}", rest):
        if model_id not in (None, "", rest):
            raise _not_inside(uri, "model_id")
        folder, source_run = call.registry.logged_model_folder(call.caller, rest)
        return Source(
            uri,
            folder=folder,
            run_id=run_id or source_run,
            logged_model_id=rest,
            **common,
        )
    match = re.fullmatch(r"([^/@]+)(?:/([^/@]+)|@([^/@]+))", rest)
    if match is None:
        raise invalid(f"Invalid model version source: '{uri}'.")
    origin, reference = match[1], match[2] or match[3]
    with not_found(origin, reference):
        version = _found(call, origin, reference)
    if run_id not in (None, "", version.run_id or "") or (
        model_id not in (None, "", version.logged_model_id or "")
    ):
        raise invalid(
            f"Invalid model version source: '{uri}'. The run_id and model_id request parameters "
            "must match the referenced model version."
        )
    return Source(
        f"models:/{origin}/{version.sequence}",
        same_as=version,
        run_id=version.run_id,
        logged_model_id=version.logged_model_id,
        **common,
    )


def _found(call: Call, name: str, reference: str) -> Version:
    return call.registry.get_version(call.caller, name, reference)


def _of_run(call: Call, uri: str, path: str, run_id: str | None, common: dict[str, Any]) -> Source:
    own, _, rest = path.strip("/").partition("/")
    if run_id not in (None, "", own):
        raise _not_inside(uri, "run_id")
    try:
        folder = call.registry.run_folder(call.caller, own)
    except NotFound:
        return Source(uri, run_id=own, **common)  # as a server of release 3.12 takes it
    place = f"{folder}/{rest}".rstrip("/") if folder else None
    return Source(uri, folder=place, run_id=own, **common)


def _of_artifacts(
    call: Call,
    uri: str,
    inside: str,
    run_id: str | None,
    model_id: str | None,
    common: dict[str, Any],
) -> Source:
    """Below the artifacts of the run or the logged model that the caller names."""
    if model_id:
        try:
            root, source_run = call.registry.logged_model_folder(call.caller, model_id)
        except NotFound as error:
            raise _not_inside(uri, "model_id") from error
        run_id = run_id or source_run
    elif run_id:
        try:
            root = call.registry.run_folder(call.caller, run_id)
        except NotFound as error:
            raise _not_inside(uri, "run_id") from error
    else:
        raise _not_inside(uri, "run_id")
    if root is None or (inside != root and not inside.startswith(f"{root}/")):
        raise _not_inside(uri, "model_id" if model_id else "run_id")
    return Source(uri, folder=inside, run_id=run_id, logged_model_id=model_id or None, **common)


def _artifact_path(uri: str) -> str | None:
    """The path among our artifacts that an address names; None if it names another store."""
    parts = urlsplit(uri)
    if parts.scheme == "mlflow-artifacts":
        return unquote(parts.path).strip("/")
    match = re.search(r"/api/2\.0/mlflow-artifacts/artifacts/(.+)$", parts.path)
    return unquote(match[1]).strip("/") if match and parts.scheme in ("http", "https") else None


def _summary(call: Call) -> VersionSummary:
    name, version = call.text("name"), call.text("version")
    with not_found(name, version):
        return call.registry.summarise_version(call.caller, name, str(version_number(version)))


def _shown(call: Call, name: str, version: str) -> dict[str, Any]:
    with not_found(name, version):
        found = call.registry.summarise_version(call.caller, name, version)
    return {"model_version": shapes.version(found)}


@route("GET", "model-versions/get")
def get(call: Call) -> dict[str, Any]:
    return {"model_version": shapes.version(_summary(call))}


@route("PATCH", "model-versions/update")
def update(call: Call) -> dict[str, Any]:
    found = _summary(call)
    text = call.optional("description") or ""
    call.registry.describe_version(call.caller, found.model, str(found.sequence), text)
    return _shown(call, found.model, str(found.sequence))


@route("DELETE", "model-versions/delete")
def delete(call: Call) -> dict[str, Any]:
    found = _summary(call)
    call.registry.delete_version(call.caller, found.model, str(found.sequence))
    return {}


@route("GET+POST", "model-versions/search")
def search(call: Call) -> dict[str, Any]:
    limit = pages.max_results(call, 10_000, 200_000)
    text, order = call.optional("filter"), call.texts("order_by")
    query = ("versions", text, order)
    offset = pages.offset_of(call.optional("page_token"), query)
    found = call.registry.search_versions(
        call.caller, text, order_by=order, limit=limit + 1, offset=offset
    )
    answer: dict[str, Any] = {}
    if found[:limit]:
        answer["model_versions"] = [shapes.version(one) for one in found[:limit]]
    if len(found) > limit:
        answer["next_page_token"] = pages.token_of(offset + limit, query)
    return answer


@route("GET", "model-versions/get-download-uri")
def get_download_uri(call: Call) -> dict[str, Any]:
    found = _summary(call)
    uri = found.source_uri
    if uri.startswith("models:/"):
        uri = _storage(call, uri)
    elif found.status != "external" and _artifact_path(uri) is None and _came_from(uri):
        uri = ""
    return {"artifact_uri": uri or f"mlflow-artifacts:/versions/{found.id}"}


def _came_from(uri: str) -> bool:
    """The files were uploaded: the address tells of their origin."""
    return urlsplit(uri).scheme in ("upload", "http", "https")


def _storage(call: Call, uri: str) -> str:
    """Where the files behind a `models:/` address are, through any number of copies."""
    rest = uri.removeprefix("models:/").strip("/")
    if rest.startswith("m-"):
        folder, _ = call.registry.logged_model_folder(call.caller, rest)
        if folder is None:
            return call.tracking.get_logged_model(call.caller, rest).artifact_uri
        return f"mlflow-artifacts:/{folder}"
    name, _, reference = rest.partition("/")
    with not_found(name, reference):
        origin = call.registry.summarise_version(call.caller, name, reference)
    if origin.source_uri.startswith("models:/"):
        return _storage(call, origin.source_uri)
    return origin.source_uri or f"mlflow-artifacts:/versions/{origin.id}"


@route("POST", "model-versions/set-tag")
def set_tag(call: Call) -> dict[str, Any]:
    key, value = call.text("key"), call.optional("value") or ""
    check_tag(key, value)
    found = _summary(call)
    if key == SEMVER_TAG:
        call.registry.set_semver(call.caller, found.model, str(found.sequence), value)
    else:
        call.registry.set_version_tag(call.caller, found.model, str(found.sequence), key, value)
    return {}


@route("DELETE", "model-versions/delete-tag")
def delete_tag(call: Call) -> dict[str, Any]:
    key, found = call.text("key"), _summary(call)
    if key == SEMVER_TAG:
        raise invalid(f"The tag '{SEMVER_TAG}' can be set, but a version always has one.")
    call.registry.delete_version_tag(call.caller, found.model, str(found.sequence), key)
    return {}


@route("POST", "model-versions/transition-stage")
def transition_stage(call: Call) -> dict[str, Any]:
    """A stage is a word of ours, too: traffic moves by rollouts alone."""
    wanted = our_stage(call, call.text("stage"))
    found = _summary(call)
    archive = call.flag("archive_existing_versions")
    if archive and wanted in ("", "archived"):
        raise invalid(
            "Model version transition cannot archive existing model versions because "
            f"'{shapes.STAGES[wanted]}' is not an Active stage. Valid stages are "
            "['Staging', 'Production']"
        )
    call.registry.promote(call.caller, found.model, str(found.sequence), wanted, replace=archive)
    return _shown(call, found.model, str(found.sequence))
