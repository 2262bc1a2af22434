"""Registered models, their aliases and tags."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from modelfleet.compat.mlflow import pages, shapes
from modelfleet.compat.mlflow.errors import MlflowError, invalid, missing
from modelfleet.compat.mlflow.routing import Call, route
from modelfleet.core.authorization import Action
from modelfleet.core.errors import Conflict, InvalidInput, NotFound
from modelfleet.registry import ranges
from modelfleet.registry.listing import VersionSummary

OWNER_TAG = "modelfleet.team"
"""names the owner team of a new model"""
KEY_LENGTH, VALUE_LENGTH, ALIAS_LENGTH = 250, 100_000, 255


class Tag(msgspec.Struct):
    key: str = ""
    value: str = ""


@contextmanager
def not_found(name: str, version: object = None) -> Iterator[None]:
    """Say in MLflow's words that a model, or its version, is not there."""
    try:
        yield
    except NotFound as error:
        if version is None or error.message.startswith("There is no model"):
            raise missing(f"Registered Model with name={name} not found") from error
        raise missing(f"Model Version (name={name}, version={version}) not found") from error


def model_name(call: Call, parameter: str = "name") -> str:
    name = call.text(parameter)
    if not name.strip():
        raise invalid(f"Missing value for required parameter '{parameter}'.")
    if "/" in name or ":" in name:
        raise invalid(f"Invalid model name '{name}'. Names cannot contain '/' or ':'.")
    return name


def tags(call: Call) -> dict[str, str]:
    found = call.convert("tags", list[Tag]) or []
    for tag in found:
        check_tag(tag.key, tag.value)
    return {tag.key: tag.value for tag in found}


def check_tag(key: str, value: str) -> None:
    normal = posixpath.normpath(key)
    if normal != key or normal == "." or normal.startswith(("..", "/")):
        raise invalid(
            f"Invalid value \"{key}\" for parameter 'key' supplied: Names may be treated as files "
            "in certain cases, and must not resolve to other names when treated as such. This "
            f"name would resolve to '{normal}'"
        )
    if not re.fullmatch(r"[/\w.\- :]+", key):
        raise invalid(
            f"Invalid value \"{key}\" for parameter 'key' supplied: Names may only contain "
            "alphanumerics, underscores (_), dashes (-), periods (.), spaces ( ), colon(:) and "
            "slashes (/)."
        )
    _within("key", key, KEY_LENGTH)
    _within("value", value, VALUE_LENGTH)


def _within(name: str, text: str, limit: int) -> None:
    if len(text) > limit:
        raise invalid(f"'{name}' exceeds the maximum length of {limit} characters")


def owner_of(call: Call, given: dict[str, str]) -> str:
    """The team of a new model: as tagged, else the caller's only one, else the setting's."""
    if given.get(OWNER_TAG):
        return given[OWNER_TAG]
    teams = call.caller.teams(Action.REGISTER)
    if teams is not None and len(teams) == 1:
        return next(iter(teams))
    return call.fleet.settings.registry.default_team


@route("POST", "registered-models/create")
def create(call: Call) -> dict[str, Any]:
    name, given = model_name(call), tags(call)
    try:
        call.registry.create_model(
            call.caller,
            name,
            owner_team=owner_of(call, given),
            description=call.optional("description") or "",
            tags=given,
        )
    except Conflict as error:
        raise MlflowError(
            "RESOURCE_ALREADY_EXISTS", f"Registered Model (name={name}) already exists."
        ) from error
    return _shown(call, name)


def _shown(call: Call, name: str) -> dict[str, Any]:
    return {"registered_model": shapes.model(call.registry.summarise_model(call.caller, name))}


@route("GET", "registered-models/get")
def get(call: Call) -> dict[str, Any]:
    name = call.text("name")
    with not_found(name):
        return _shown(call, name)


@route("PATCH", "registered-models/update")
def update(call: Call) -> dict[str, Any]:
    name = call.text("name")
    with not_found(name):
        call.registry.update_model(
            call.caller, name, description=call.optional("description") or ""
        )
        return _shown(call, name)


@route("POST", "registered-models/rename")
def rename(call: Call) -> dict[str, Any]:
    name, new_name = call.text("name"), model_name(call, "new_name")
    with not_found(name):
        try:
            call.registry.rename_model(call.caller, name, new_name)
        except Conflict as error:
            if error.slug == "referenced":
                raise
            raise MlflowError(
                "RESOURCE_ALREADY_EXISTS", f"Registered Model (name={new_name}) already exists."
            ) from error
        return _shown(call, new_name)


@route("DELETE", "registered-models/delete")
def delete(call: Call) -> dict[str, Any]:
    name = call.text("name")
    with not_found(name):
        call.registry.delete_model(call.caller, name, versions=True)
    return {}


@route("GET+POST", "registered-models/search")
def search(call: Call) -> dict[str, Any]:
    limit = pages.max_results(call, 100, 1000)
    text, order = call.optional("filter"), call.texts("order_by")
    query = ("models", text, order)
    offset = pages.offset_of(call.optional("page_token"), query)
    found = call.registry.search_models(
        call.caller, text, order_by=order, limit=limit + 1, offset=offset
    )
    answer: dict[str, Any] = {}
    if found[:limit]:
        answer["registered_models"] = [shapes.model(one) for one in found[:limit]]
    if len(found) > limit:
        answer["next_page_token"] = pages.token_of(offset + limit, query)
    return answer


@route("GET+POST", "registered-models/get-latest-versions")
def get_latest_versions(call: Call) -> dict[str, Any]:
    name, wanted = call.text("name"), call.texts("stages")
    with not_found(name):
        latest = call.registry.latest_versions(call.caller, name)
    if not wanted:
        return _listed(latest)
    found = []
    for text in wanted:
        if text.lower() not in _stages(call):
            found.append(_by_number(call, name, text))
            continue
        own = our_stage(call, text)
        found += [one for one in latest if one.stage == own]
    return _listed([one for one in found if one is not None])


def _listed(found: list[VersionSummary]) -> dict[str, Any]:
    return {"model_versions": [shapes.version(one) for one in found]} if found else {}


def _by_number(call: Call, name: str, text: str) -> VersionSummary | None:
    """A semantic version or a range where a client can only name a stage."""
    try:
        ranges.parse(text)
    except InvalidInput:
        our_stage(call, text)
    try:
        return call.registry.summarise_version(call.caller, name, text)
    except NotFound:
        return None


def _stages(call: Call) -> dict[str, str]:
    """What clients write, in lower case, and our names."""
    known = {theirs.lower(): ours for ours, theirs in shapes.STAGES.items()}
    return {one.name.lower(): one.name for one in call.registry.list_stages()} | known


def our_stage(call: Call, text: str) -> str:
    known = _stages(call)
    if text.lower() not in known:
        own = [one for one in known.values() if one not in shapes.STAGES]
        names = ", ".join([*shapes.STAGES.values(), *own])
        raise invalid(f"Invalid Model Version stage: {text}. Value must be one of {names}.")
    return known[text.lower()]


@route("POST", "registered-models/set-tag")
def set_tag(call: Call) -> dict[str, Any]:
    name, key, value = call.text("name"), call.text("key"), call.optional("value") or ""
    check_tag(key, value)
    with not_found(name):
        call.registry.set_model_tag(call.caller, name, key, value)
    return {}


@route("DELETE", "registered-models/delete-tag")
def delete_tag(call: Call) -> dict[str, Any]:
    name, key = call.text("name"), call.text("key")
    with not_found(name):
        call.registry.delete_model_tag(call.caller, name, key)
    return {}


@route("POST", "registered-models/alias")
def set_alias(call: Call) -> dict[str, Any]:
    name, alias, version = call.text("name"), call.text("alias"), call.text("version")
    if not re.fullmatch(r"[\w\-]*", alias):
        raise invalid(
            f"Invalid alias name: '{alias}'. Names may only contain alphanumerics, underscores "
            "(_), and dashes (-)."
        )
    if len(alias) > ALIAS_LENGTH:
        raise invalid(
            f"'Registered model alias name' exceeds the maximum length of {ALIAS_LENGTH} characters"
        )
    if alias.lower() == "latest":
        raise invalid("'latest' alias name (case insensitive) is reserved.")
    if re.fullmatch(r"[vV]\d+", alias):
        raise invalid(f"Version alias name '{alias}' is reserved.")
    number = version_number(version)
    with not_found(name, version):
        call.registry.set_alias(call.caller, name, alias, str(number))
    return {}


def version_number(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise invalid(f"Parameter 'version' must be an integer, got '{text}'.") from error


@route("DELETE", "registered-models/alias")
def delete_alias(call: Call) -> dict[str, Any]:
    name, alias = call.text("name"), call.text("alias")
    with not_found(name):
        call.registry.summarise_model(call.caller, name)
    try:
        call.registry.delete_alias(call.caller, name, alias)
    except NotFound:
        return {}  # as a stock server answers
    return {}


@route("GET", "registered-models/alias")
def get_by_alias(call: Call) -> dict[str, Any]:
    """Also by a semantic version or a range, which clients can write where an alias stands."""
    name, alias = call.text("name"), call.text("alias")
    try:
        found = call.registry.summarise_version(call.caller, name, alias)
    except (NotFound, InvalidInput) as error:
        with not_found(name):
            call.registry.summarise_model(call.caller, name)
        raise invalid(f"Registered model alias {alias} not found.") from error
    if alias not in found.aliases and (alias.isdigit() or not re.match(r"[\d^~<>=]", alias)):
        raise invalid(f"Registered model alias {alias} not found.")
    return {"model_version": shapes.version(found)}
