"""What may be logged: names and lengths, with the words of MLflow's messages."""

from __future__ import annotations

import json
import math
import posixpath
import re
from collections.abc import Sequence

from modelfleet.core.errors import InvalidInput
from modelfleet.registry.tracking.types import Dataset, Input, Point

KEY = 250
PARAMETER_VALUE = 6000
"""characters; a longer one is cut"""
TAG_VALUE = 8000
"""characters; a longer one is cut"""
EXPERIMENT_NAME = 500
EXPERIMENT_TAG_VALUE = 20_000
BATCH_METRICS = 1000
BATCH_PARAMETERS = 100
BATCH_TOTAL = 1000
INT64 = 2**63
LARGEST = 1.7976931348623157e308
_NAME = re.compile(r"[/\w.\- :]*")
_CHARACTERS = (
    "Names may only contain alphanumerics, underscores (_), dashes (-), periods (.), spaces ( ), "
    "colon(:) and slashes (/)."
)
_DATASET = {"name": 500, "digest": 36, "source": 65_535, "schema": 1_048_575, "profile": 16_777_215}


def invalid_value(path: str, value: object, why: str = "") -> InvalidInput:
    shown = json.dumps(value, sort_keys=True, separators=(",", ":"))[:500]
    tail = f": {why}" if why else "."
    return InvalidInput(f"Invalid value {shown} for parameter '{path}' supplied{tail}")


def check_name(name: str, path: str) -> None:
    """Raises `InvalidInput` unless a metric, parameter or tag may be called that."""
    if not _NAME.fullmatch(name):
        raise invalid_value(path, name, _CHARACTERS)
    plain = posixpath.normpath(name)
    if plain != name or plain == "." or plain.startswith(("..", "/")):
        raise invalid_value(
            path,
            name,
            "Names may be treated as files in certain cases, and must not resolve to other names "
            f"when treated as such. This name would resolve to {plain!r}",
        )


def check_length(what: str, text: str, limit: int) -> str:
    if len(text) > limit:
        raise InvalidInput(f"'{what}' exceeds the maximum length of {limit} characters")
    return text


def parameter(key: str, value: str, path: str = "") -> tuple[str, str]:
    check_name(key, f"{path}key")
    return check_length("Param key", key, KEY), value[:PARAMETER_VALUE]


def tag(key: str, value: str, path: str = "") -> tuple[str, str]:
    check_name(key, f"{path}key")
    return check_length(f"{path}key", key, KEY), value[:TAG_VALUE]


def experiment_tag(key: str, value: str) -> tuple[str, str]:
    check_name(key, "key")
    check_length("key", key, KEY)
    return key, check_length("value", value, EXPERIMENT_TAG_VALUE)


def point(one: Point, path: str = "") -> None:
    check_name(one.key, f"{path}name")
    if not 0 <= one.timestamp < INT64:
        why = "Timestamp must be a nonnegative long (64-bit integer) "
        told = f"metric '{one.key}' (value={one.value}). {why}"
        raise invalid_value(f"{path}timestamp", one.timestamp, told)
    if not -INT64 <= one.step < INT64:
        told = (
            f"metric '{one.key}' (value={one.value}). Step must be a valid long (64-bit integer)."
        )
        raise invalid_value(f"{path}step", one.step, told)
    check_length("Metric name", one.key, KEY)


def stored(value: float) -> tuple[bool, float]:
    """Whether it is NaN, and the finite number that stands for it in the database."""
    if math.isnan(value):
        return True, 0.0
    return False, max(-LARGEST, min(LARGEST, value))


def batch(points: Sequence[object], parameters: Sequence[object], tags: Sequence[object]) -> None:
    counts = {
        "metrics": (len(points), BATCH_METRICS),
        "params": (len(parameters), BATCH_PARAMETERS),
        "tags": (len(tags), BATCH_PARAMETERS),
        "metrics, params, and tags": (len(points) + len(parameters) + len(tags), BATCH_TOTAL),
    }
    for what, (count, limit) in counts.items():
        if count > limit:
            raise InvalidInput(
                f"A batch logging request can contain at most {limit} {what}. Got {count} {what}. "
                f"Please split up {what} across multiple requests and try again."
            )


def dataset(one: Dataset) -> None:
    for name, limit in _DATASET.items():
        check_length(name, getattr(one, name) or "", limit)
    check_length("source_type", one.source_type, 36)


def dataset_input(one: Input) -> None:
    dataset(one.dataset)
    for key, value in one.tags.items():
        check_length("key", key, 255)
        check_length("value", value, 500)


def experiment_name(name: str) -> None:
    if not name:
        raise InvalidInput(f"Invalid experiment name: '{name}'")
    check_length("name", name, EXPERIMENT_NAME)


def model_name(name: str) -> None:
    bad = ("/", ":", ".", "%", '"', "'")
    if not name or any(one in name for one in bad):
        raise InvalidInput(
            f"Invalid model name ({name[:500]!r}) provided. Model name must be a non-empty string "
            f"and cannot contain the following characters: {bad}"
        )
    check_length("name", name, 500)
