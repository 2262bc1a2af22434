"""The files of a registered version of an MLflow server."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from modelfleet.core.archives import refuse_links
from modelfleet.importing.mlflow_api import MlflowApi, artifact_root
from modelfleet.importing.types import Attention


def fetch(
    api: MlflowApi,
    version: Mapping[str, Any],
    run: Mapping[str, Any],
    folder: Path,
    *,
    local: bool,
) -> str:
    """A version's files, by whatever way the server opens to them; where they lie there.

    run: the one that made it, empty if there is none. Raises `Attention` if they can't be had.
    """
    said = api.get(
        "model-versions/get-download-uri", name=version["name"], version=version["version"]
    )
    uri = str(said.get("artifact_uri", ""))
    root = artifact_root(uri)
    if root is not None:
        for path, _ in api.list_files(root):
            api.fetch(root, path, folder / path)
        return uri
    if uri.startswith("runs:/"):
        run_id, _, below = uri.removeprefix("runs:/").strip("/").partition("/")
        _fetch_of_run(api, run_id, below, folder)
        return uri
    of_run = str(run.get("info", {}).get("artifact_uri", "")).rstrip("/")
    if of_run and uri.startswith(f"{of_run}/"):
        _fetch_of_run(api, str(version["run_id"]), uri.removeprefix(f"{of_run}/"), folder)
        return uri
    parts = urlsplit(uri)
    if parts.scheme in ("", "file") and local:
        place = Path(unquote(parts.path))
        if not place.is_dir():
            raise Attention(f"Its artifacts should lie in {place}, which is not here.")
        refuse_links(place)
        shutil.copytree(place, folder, dirs_exist_ok=True)
        return uri
    how = (
        "if they are on this machine, pass --local-artifacts"
        if parts.scheme in ("", "file")
        else "copy them here and use `modelfleet import files`"
    )
    raise Attention(f"Its artifacts lie at {uri}, which the server does not hand out: {how}.")


def _fetch_of_run(api: MlflowApi, run_id: str, below: str, folder: Path) -> None:
    for path, _ in api.list_of_run(run_id):
        if not below or path.startswith(f"{below}/"):
            target = folder / path.removeprefix(f"{below}/")
            api.fetch_of_run(run_id, path, target)
