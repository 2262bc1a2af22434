"""A version from one modelfleet to another: its bytes, verified there, not a pointer."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelfleet.client.errors import ApiError

if TYPE_CHECKING:
    from modelfleet.client.client import Client


def copy_version(
    source: Client,
    target: Client,
    model: str,
    reference: str,
    *,
    name: str | None = None,
    team: str | None = None,
) -> Any:
    """The version there, under the same semantic version. Repeated, it sends nothing twice.

    Its environment's requirements, metrics, tags and description go with it; checks, aliases and
    stages are the target's own.
    """
    found: Any = source.api.get(f"/v1/models/{model}/versions/{reference}")
    version, files = found["version"], found["files"]
    owner: Any = source.api.get(f"/v1/models/{model}")
    there = name or model
    target.ensure_model(
        there,
        team=team or owner["owner_team"],
        business_function=owner["business_function"],
        criticality=owner["criticality"],
        description=owner["description"],
    )
    for entry in files:
        _send(source, target, model, version["version"], entry, "files")
    for entry in (version["code"] or {}).get("files", ()):
        _send(source, target, model, version["version"], entry, "code")
    wanted = version["requested_environment"]
    run: Any = source.api.get(f"/v1/runs/{version['run_id']}") if version["run_id"] else None
    body = {
        "entries": files,
        "requirements": wanted.get("requirements", []),
        "python": wanted.get("python", "3.11"),
        "compile": wanted.get("compile", True),
        "version": version["version"],
        "metrics": version["metrics"],
        "parameters": run["parameters"] if run else {},
        "dataset": run["dataset"] if run else "",
        "git_commit": run["git_commit"] if run else "",
        "tags": version["tags"],
        "description": version["description"],
        "code": version["code"],
        "source_uri": f"{source.api.url}/models/{model}/{version['version']}",
    }
    try:
        return target.api.post(f"/v1/models/{there}/versions", body)
    except ApiError as error:
        if error.status != 409:
            raise
    known: Any = target.api.get(f"/v1/models/{there}/versions/{version['version']}")
    if known["files"] != files:
        raise ApiError(
            409,
            {
                "type": "urn:modelfleet:problem:conflict",
                "title": "The present state forbids this.",
                "status": 409,
                "detail": f"{there}@{version['version']} is another version there.",
            },
        )
    return known["version"]


def _send(
    source: Client, target: Client, model: str, version: str, entry: dict[str, Any], kind: str
) -> None:
    """One file of the bundle (`files`) or of the code (`code`), through this machine's disk."""
    try:
        target.api.call("HEAD", f"/v1/blobs/{entry['sha256']}")
        return
    except ApiError as error:
        if error.status != 404:
            raise
    with tempfile.NamedTemporaryFile(prefix="modelfleet-copy-") as file:
        path = f"/v1/models/{model}/versions/{version}/{kind}/{entry['path']}"
        for chunk in source.api.stream(path):
            file.write(chunk)
        file.flush()
        target.upload(entry["sha256"], Path(file.name))
