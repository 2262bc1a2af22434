"""Documents of pipelines as the room of pipelines defines them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelfleet.serving.pipelines import definition, store

_STEP = {"timeout": "timeout_ms"}
_FALLBACK = {"cached": "cached_ms"}
_BREAKER = {"open": "open_ms"}


def definition_of(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Raises `InvalidInput` with the step at fault."""
    made: dict[str, Any] = {
        "name": plain["metadata"]["name"],
        "team": plain["metadata"]["owner"],
        "inputs": plain["inputs"],
        "steps": [_step(one) for one in plain["steps"]],
        "outputs": plain["outputs"],
    }
    if "description" in plain["metadata"]:
        made["description"] = plain["metadata"]["description"]
    if "timeout" in plain:
        made["timeout_ms"] = _milliseconds(plain["timeout"])
    checked = store.plain(definition.read(made))
    assert isinstance(checked, dict)
    return checked


def _step(plain: Mapping[str, Any]) -> dict[str, Any]:
    made = _named(plain, _STEP)
    if "fallback" in made:
        made["fallback"] = _named(made["fallback"], _FALLBACK)
    if "breaker" in made:
        made["breaker"] = _named(made["breaker"], _BREAKER)
    return made


def _named(plain: Mapping[str, Any], times: Mapping[str, str]) -> dict[str, Any]:
    return {
        times.get(key, key): _milliseconds(value) if key in times else value
        for key, value in plain.items()
    }


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def document_of(made: Mapping[str, Any]) -> dict[str, Any]:
    """The document that would define the same pipeline."""
    metadata = {"name": made["name"], "owner": made["team"]}
    if made.get("description"):
        metadata["description"] = made["description"]
    document: dict[str, Any] = {
        "apiVersion": "modelfleet.dev/v1",
        "kind": "Pipeline",
        "metadata": metadata,
        "inputs": made["inputs"],
        "steps": [_step_document(one) for one in made["steps"]],
        "outputs": made["outputs"],
    }
    if "timeout_ms" in made:
        document["timeout"] = made["timeout_ms"] / 1000
    return document


def _step_document(made: Mapping[str, Any]) -> dict[str, Any]:
    step = _seconds(made, _STEP)
    if "fallback" in step:
        step["fallback"] = _seconds(step["fallback"], _FALLBACK)
    if "breaker" in step:
        step["breaker"] = _seconds(step["breaker"], _BREAKER)
    return step


def _seconds(made: Mapping[str, Any], times: Mapping[str, str]) -> dict[str, Any]:
    back = {value: key for key, value in times.items()}
    return {
        back.get(key, key): value / 1000 if key in back else value for key, value in made.items()
    }
