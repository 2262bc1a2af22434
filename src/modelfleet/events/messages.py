"""From an audit event to what receivers get.

Two formats: MLflow's webhooks (mlflow/webhooks/types.py, release 3.17) for the events that MLflow
knows, and CloudEvents 1.0 in JSON for every audit event.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Details = Mapping[str, Any]

ENTITIES: dict[str, tuple[str, ...]] = {
    "registered_model": ("created",),
    "model_version": ("created",),
    "model_version_tag": ("deleted", "set"),
    "model_version_alias": ("created", "deleted"),
    "prompt": ("created",),
    "prompt_version": ("created",),
    "prompt_tag": ("deleted", "set"),
    "prompt_version_tag": ("deleted", "set"),
    "prompt_alias": ("created", "deleted"),
}
"""MLflow's entities, and what may happen to each"""
_PROMPT = "mlflow.prompt.is_prompt"
_PROMPT_TYPE = "_mlflow_prompt_type"
_PROMPT_TEXT = "mlflow.prompt.text"


def _model(name: str, details: Details, prompt: bool) -> tuple[str, dict[str, Any]]:
    hidden = (_PROMPT, _PROMPT_TYPE) if prompt else ()
    tags = {k: v for k, v in details.get("tags", {}).items() if k not in hidden}
    data = {"name": name, "tags": tags, "description": details.get("description") or None}
    return ("prompt.created" if prompt else "registered_model.created"), data


def _version(name: str, details: Details, prompt: bool) -> tuple[str, dict[str, Any]]:
    tags = dict(details.get("tags", {}))
    data: dict[str, Any] = {"name": name, "version": str(details["sequence"])}
    description = details.get("description") or None
    if prompt:
        template = tags.pop(_PROMPT_TEXT, None)
        kept = {k: v for k, v in tags.items() if k not in (_PROMPT, _PROMPT_TYPE)}
        return "prompt_version.created", data | {
            "template": template,
            "tags": kept,
            "description": description,
        }
    data |= {"source": details.get("source", ""), "run_id": details.get("run_id") or None}
    return "model_version.created", data | {"tags": tags, "description": description}


def _version_tag(action: str) -> Callable[[str, Details, bool], tuple[str, dict[str, Any]]]:
    def make(name: str, details: Details, prompt: bool) -> tuple[str, dict[str, Any]]:
        data = {"name": name, "version": str(details["sequence"]), "key": details["key"]}
        if action == "set":
            data["value"] = details["value"]
        entity = "prompt_version_tag" if prompt else "model_version_tag"
        return f"{entity}.{action}", data

    return make


def _model_tag(action: str) -> Callable[[str, Details, bool], tuple[str, dict[str, Any]] | None]:
    def make(name: str, details: Details, prompt: bool) -> tuple[str, dict[str, Any]] | None:
        if not prompt:
            return None  # MLflow tells this of prompts alone
        data = {"name": name, "key": details["key"]}
        if action == "set":
            data["value"] = details["value"]
        return f"prompt_tag.{action}", data

    return make


def _alias(action: str) -> Callable[[str, Details, bool], tuple[str, dict[str, Any]]]:
    def make(name: str, details: Details, prompt: bool) -> tuple[str, dict[str, Any]]:
        data = {"name": name, "alias": details["alias"]}
        if action == "created":
            data["version"] = str(details["sequence"])
        return f"{'prompt' if prompt else 'model_version'}_alias.{action}", data

    return make


_MAKERS: dict[str, Callable[[str, Details, bool], tuple[str, dict[str, Any]] | None]] = {
    "create-model": _model,
    "register-version": _version,
    "set-version-tag": _version_tag("set"),
    "delete-version-tag": _version_tag("deleted"),
    "set-model-tag": _model_tag("set"),
    "delete-model-tag": _model_tag("deleted"),
    "set-alias": _alias("created"),
    "delete-alias": _alias("deleted"),
}
TOLD = frozenset(_MAKERS)
"""audit actions that MLflow's format knows"""


def of_mlflow(
    action: str, name: str, details: Details, prompt: bool
) -> tuple[str, dict[str, Any]] | None:
    """`entity.action` and the data of MLflow's event; None where MLflow has none."""
    maker = _MAKERS.get(action)
    return maker(name, details, prompt) if maker is not None else None


def mlflow_body(event: str, data: Mapping[str, Any], at: str) -> dict[str, Any]:
    entity, _, action = event.partition(".")
    return {"entity": entity, "action": action, "timestamp": at, "data": data}


def cloud_event(row: Mapping[str, Any], at: str, watchers: Sequence[str] = ()) -> dict[str, Any]:
    """CloudEvents 1.0, structured mode (cloudevents.io, section 3 of the JSON format).

    watchers: who watches the model that the event is about, by name.
    """
    return {
        "specversion": "1.0",
        "id": str(row["sequence"]),
        "source": "/modelfleet",
        "type": f"dev.modelfleet.{row['action']}",
        "subject": f"{row['kind']}/{row['resource']}",
        "time": at,
        "datacontenttype": "application/json",
        "data": {
            "principal": row["principal"],
            "team": row["team"],
            "correlation_id": row["correlation_id"],
            "details": row["details"],
            "watchers": list(watchers),
        },
    }


EXAMPLES: dict[str, dict[str, Any]] = {
    "registered_model.created": {"name": "example", "tags": {"key": "value"}, "description": "d"},
    "model_version.created": {
        "name": "example",
        "version": "1",
        "source": "models:/m-0",
        "run_id": "0",
        "tags": {"key": "value"},
        "description": "d",
    },
    "model_version_tag.set": {"name": "example", "version": "1", "key": "key", "value": "value"},
    "model_version_tag.deleted": {"name": "example", "version": "1", "key": "key"},
    "model_version_alias.created": {"name": "example", "alias": "champion", "version": "1"},
    "model_version_alias.deleted": {"name": "example", "alias": "champion"},
    "prompt.created": {"name": "example", "tags": {}, "description": "d"},
    "prompt_version.created": {
        "name": "example",
        "version": "1",
        "template": "Hello {{name}}",
        "tags": {},
        "description": "d",
    },
    "prompt_tag.set": {"name": "example", "key": "key", "value": "value"},
    "prompt_tag.deleted": {"name": "example", "key": "key"},
    "prompt_version_tag.set": {"name": "example", "version": "1", "key": "key", "value": "v"},
    "prompt_version_tag.deleted": {"name": "example", "version": "1", "key": "key"},
    "prompt_alias.created": {"name": "example", "alias": "champion", "version": "1"},
    "prompt_alias.deleted": {"name": "example", "alias": "champion"},
}
"""what a test delivery says"""
