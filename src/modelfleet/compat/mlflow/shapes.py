"""MLflow's JSON of models and versions."""

from __future__ import annotations

from typing import Any

from modelfleet.registry.adoption import SEMVER_TAG
from modelfleet.registry.listing import ModelSummary, VersionSummary

STAGES = {"": "None", "staging": "Staging", "prod": "Production", "archived": "Archived"}
"""ours, and MLflow's; a team's own stages have the same name on both sides"""


def version(one: VersionSummary, *, aliases: bool = True) -> dict[str, Any]:
    tags = [{"key": key, "value": value} for key, value in one.tags.items()]
    tags.append({"key": SEMVER_TAG, "value": one.version})
    found: dict[str, Any] = {
        "name": one.model,
        "version": str(one.sequence),
        "creation_timestamp": one.created_at // 1000,
        "last_updated_timestamp": one.updated_at // 1000,
        "current_stage": STAGES.get(one.stage, one.stage),
        "description": one.description,
        "source": one.source_uri or f"modelfleet:/{one.model}/{one.version}",
        "run_id": one.run_id or "",
        "run_link": one.run_link,
        "status": "READY",
        "tags": tags,
    }
    if aliases and one.aliases:
        found["aliases"] = list(one.aliases)
    if one.logged_model_id:
        found["model_id"] = one.logged_model_id
    return found


def model(one: ModelSummary) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": one.name,
        "creation_timestamp": one.created_at // 1000,
        "last_updated_timestamp": one.updated_at // 1000,
    }
    if one.description:
        found["description"] = one.description
    if one.tags:
        found["tags"] = [{"key": key, "value": value} for key, value in one.tags.items()]
    if one.aliases:
        found["aliases"] = [
            {"alias": name, "version": str(sequence)} for name, sequence in one.aliases
        ]
    if one.latest:
        found["latest_versions"] = [version(own, aliases=False) for own in one.latest]
    return found
