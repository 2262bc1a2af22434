"""JSON Schema of the documents, for editors."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from modelfleet.fleetfile.documents import KINDS

SCHEMA_ID = "https://modelfleet.dev/schema/fleet-v1.json"


def schema(kind: str | None = None) -> dict[str, Any]:
    """Of one kind of document, or of whichever a file holds."""
    kinds: dict[str, type[BaseModel]] = KINDS if kind is None else {kind: KINDS[kind]}
    _, made = models_json_schema([(one, "validation") for one in kinds.values()], by_alias=True)
    defs = made["$defs"]
    for one in defs.values():
        one.pop("title", None)
        for field in one.get("properties", {}).values():
            field.pop("title", None)
    _short_gates(defs)
    if "Metadata" in defs:  # the owner may be said in fleet.yaml
        defs["Metadata"]["required"] = ["name"]
    if "Serve" in defs:
        serve = defs["Serve"]["properties"]
        serve["isolate"] = {**serve["isolation"], "description": "another word for isolation"}
    refs = {name: {"$ref": f"#/$defs/{one.__name__}"} for name, one in kinds.items()}
    head: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_ID,
        "title": "modelfleet fleet files",
    }
    if len(refs) == 1:
        return head | next(iter(refs.values())) | {"$defs": defs}
    chosen = [
        {"if": {"properties": {"kind": {"const": name}}, "required": ["kind"]}, "then": ref}
        for name, ref in refs.items()
    ]
    one_of = {"properties": {"kind": {"enum": list(refs)}}, "required": ["apiVersion", "kind"]}
    return head | {"type": "object"} | one_of | {"allOf": chosen, "$defs": defs}


def _short_gates(defs: dict[str, Any]) -> None:
    """`- signature` and `- signature:` are written for `- signature: {}`."""
    entry = defs.get("GateEntry")
    if entry is None:
        return
    entry.pop("required", None)
    whole = dict(entry, minProperties=1, maxProperties=1)
    names = list(entry["properties"])
    defs["GateEntry"] = {"anyOf": [{"enum": names}, whole]}
