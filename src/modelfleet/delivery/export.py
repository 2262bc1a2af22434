"""Documents of what is there: planning them again finds nothing to do."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import sqlalchemy as sa

from modelfleet.core.authorization import Action, Principal
from modelfleet.delivery import objects, pipelines
from modelfleet.delivery.apply import Rooms
from modelfleet.delivery.facts import DEFAULTS, WATCHED, seen_facts
from modelfleet.delivery.objects import FleetObject
from modelfleet.delivery.wanted import place_of
from modelfleet.delivery.world import World, look
from modelfleet.fleetfile.documents import API_VERSION
from modelfleet.registry import Model
from modelfleet.serving.pipelines import store as pipeline_store

_ENOUGH = 100_000


def exported(rooms: Rooms, actor: Principal, names: Collection[str]) -> list[dict[str, Any]]:
    """`{document, comments}` of every model and pipeline that the caller may read."""
    chosen = set(names)
    with rooms.database.read() as connection:
        last = objects.find(connection)
        known = rooms.registry.list_models(actor, limit=_ENOUGH)
        models = [one for one in known if not chosen or one.name in chosen]
        rows = [
            row.pipeline
            for row in pipeline_store.find(connection)
            if actor.may(Action.READ, row.pipeline.owner_team)
            and (not chosen or row.pipeline.name in chosen)
        ]
        places = _places(connection, rooms, models, last)
        world = look(connection, rooms.endpoints, [m.name for m in models], places.values(), ())
    found = [_model(one, places[one.name], world, last.get(("Model", one.name))) for one in models]
    for row in rows:
        document = pipelines.document_of(row.definition)
        was = last.get(("Pipeline", row.name))
        if was is not None and "consumers" in was.document:
            document["consumers"] = was.document["consumers"]
        found.append({"document": document, "comments": []})
    return found


def _places(
    connection: sa.Connection,
    rooms: Rooms,
    models: Collection[Model],
    last: Mapping[objects.Key, FleetObject],
) -> dict[str, str]:
    """The endpoint of each model: what its file says, its own name, or the only one it has."""
    own: dict[str, list[str]] = {}
    for one in rooms.endpoints.all():
        own.setdefault(one.model, []).append(one.name)
    found = {}
    for model in models:
        was = last.get(("Model", model.name))
        told = place_of(was.document) if was else model.name
        has = own.get(model.name, [])
        found[model.name] = told if told in has or not has else has[0]
    return found


def _model(model: Model, place: str, world: World, last: FleetObject | None) -> dict[str, Any]:
    comments: list[str] = []
    document: dict[str, Any] = {"apiVersion": API_VERSION, "kind": "Model"}
    document["metadata"] = {"name": model.name, "owner": model.owner_team}
    was = dict(last.document) if last else {}
    for key in ("source", "uses", "consumers", "serve", "scale", "endpoint", "gates", "rollout"):
        if key in was:
            document[key] = was[key]
    for key in ("approvals", "monitor", "budget", "train", "files"):
        if key in was:
            document[key] = was[key]
    endpoint = world.endpoints.get(place)
    seen = seen_facts(
        model,
        endpoint,
        world.uses.get(model.name, frozenset()),
        world.consumers.get(model.name, frozenset()),
    )
    _lay_seen(document, was, seen)
    for key in ("serve", "endpoint"):
        if document.get(key) == {}:
            document.pop(key)
    if endpoint is not None:
        if place != model.name:
            document.setdefault("endpoint", {})["name"] = place
        elif document.get("endpoint", {}).get("name") == place and "endpoint" not in was:
            document["endpoint"].pop("name")
        if not document.get("endpoint", True):
            document.pop("endpoint")
        _source(document, model, endpoint.stable_version_id, world, comments)
    if last is None:
        comments.append("Nobody applied this model by a file yet: only what can be seen is here.")
    missing = [key for key in ("gates", "rollout", "scale", "monitor") if key not in document]
    if missing:
        comments.append(f"Left to defaults: {', '.join(missing)}.")
    return {"document": document, "comments": comments}


def _lay_seen(document: dict[str, Any], was: Mapping[str, Any], seen: Mapping[Any, Any]) -> None:
    """What is observed, over what was applied."""
    for path in [p for p in WATCHED if p not in (("uses",), ("consumers",))]:
        _forget(document, path)
    document["metadata"] = {"name": document["metadata"]["name"], **document["metadata"]}
    for path, value in seen.items():
        if path[0] in ("uses", "consumers"):
            continue
        if DEFAULTS.get(path) == value and not _has(was, path):
            continue
        here = document
        for part in path[:-1]:
            here = here.setdefault(part, {})
        here[path[-1]] = value
    told = {use["model"]: use for use in was.get("uses", ())}
    names = sorted(path[1] for path in seen if path[0] == "uses")
    _set(document, "uses", [told.get(name, {"model": name}) for name in names])
    consumers = sorted(path[1].partition(" ")[::2] for path in seen if path[0] == "consumers")
    _set(document, "consumers", [{kind: name} for kind, name in consumers])


def _set(document: dict[str, Any], key: str, value: list[Any]) -> None:
    document.pop(key, None)
    if value:
        document[key] = value


def _forget(document: dict[str, Any], path: tuple[str, ...]) -> None:
    """Without what is about to be written anew; the parts above are copied, not shared."""
    if path == ("metadata",):
        document["metadata"] = {"name": document["metadata"]["name"]}
        return
    here = document
    for part in path[:-1]:
        if part not in here:
            return
        here[part] = dict(here[part])
        here = here[part]
    here.pop(path[-1], None)


def _has(document: Any, path: tuple[str, ...]) -> bool:
    for part in path:
        if not isinstance(document, Mapping) or part not in document:
            return False
        document = document[part]
    return True


def _source(
    document: dict[str, Any],
    model: Model,
    stable: str | None,
    world: World,
    comments: list[str],
) -> None:
    serving = next((v for v in world.versions.get(model.name, ()) if v.id == stable), None)
    source = document.get("source", {})
    if serving is None:
        return
    if source.get("path") is not None:
        if source.get("digest") == serving.source:
            return
        comments.append(f"It serves {serving.version}, which its files did not make.")
    elif source:
        meant = world.resolve(model.name, source.get("version", "latest"))
        if meant is not None and meant.id == serving.id:
            return
        comments.append(f"source.version was {source.get('version')}; it serves another one.")
    document["source"] = {"version": serving.version}
    rank = ["apiVersion", "kind", "metadata", "source"]
    ordered = {key: document[key] for key in rank} | document
    document.clear()
    document |= ordered
