"""Exported documents as files."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from modelfleet.fleetfile.documents import API_VERSION, KINDS
from modelfleet.fleetfile.text import dump, pretty

_WRITTEN_BY_APPLY = ("files",)


def files_of(found: Sequence[Mapping[str, Any]], fleet: str) -> dict[str, str]:
    """Contents by file name, `fleet.yaml` first."""
    head = {"apiVersion": API_VERSION, "kind": "Fleet", "metadata": {"name": fleet}}
    files = {"fleet.yaml": dump(head)}
    for one in found:
        document = {k: v for k, v in one["document"].items() if k not in _WRITTEN_BY_APPLY}
        comments = list(one["comments"])
        source = document.get("source", {})
        if "path" in source:
            document["source"] = {k: v for k, v in source.items() if k != "digest"}
        if "files" in one["document"]:
            names = ", ".join(one["document"]["files"])
            comments.append(f"Its local files are not exported: put these beside it: {names}")
        kind = document["kind"]
        name = _file_name(document["metadata"]["name"], kind.lower(), files)
        files[name] = dump(pretty(KINDS[kind], document), comments)
    return files


def _file_name(name: str, kind: str, taken: Mapping[str, str]) -> str:
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-") or kind
    number, found = 1, f"{plain}.{kind}.yaml"
    while found.lower() in {one.lower() for one in taken}:
        number += 1
        found = f"{plain}-{number}.{kind}.yaml"
    return found
