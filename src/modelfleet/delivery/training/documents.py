"""What documents say of training, read from the ones that were applied last."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import sqlalchemy as sa
import structlog
from pydantic import ValidationError

from modelfleet.core.database import Database
from modelfleet.core.errors import InvalidInput, NotFound
from modelfleet.delivery import objects
from modelfleet.delivery.objects import FleetObject, fleet_object
from modelfleet.delivery.specs import spec_of
from modelfleet.delivery.training.plan import Destination, Plan
from modelfleet.fleetfile.documents import ModelDocument
from modelfleet.fleetfile.sections import Train

log = structlog.get_logger(__name__)


class DocumentPlans:
    """By model, what its document says now. Documents are parsed again only when one changed."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._state: tuple[object, ...] = ()
        self._plans: Mapping[str, Plan] = {}

    def trainings(self) -> Mapping[str, Plan]:
        kind = fleet_object.c.kind == "Model"
        mark = sa.select(
            sa.func.count(),
            sa.func.coalesce(sa.func.sum(fleet_object.c.generation), 0),
            sa.func.coalesce(sa.func.max(fleet_object.c.applied_at), 0),
        ).where(kind)
        with self._database.read() as connection:
            state = tuple(connection.execute(mark).one())
            if state != self._state:
                found = objects.find(connection)
                self._plans = {
                    one.name: plan
                    for one in found.values()
                    if one.kind == "Model" and (plan := _readable(one)) is not None
                }
                self._state = state
        return self._plans

    def destination(self, model: str) -> Destination:
        with self._database.read() as connection:
            found = objects.find(connection, [("Model", model)])
        if not found:
            raise NotFound(f"The document of {model} is gone.")
        try:
            document = ModelDocument.model_validate(found["Model", model].document)
        except ValidationError as error:
            raise InvalidInput(f"The document of {model} can't be read any more.") from error
        endpoint = (document.endpoint and document.endpoint.name) or model
        return Destination(endpoint, spec_of(document))


def _readable(one: FleetObject) -> Plan | None:
    """One that a later release can't read must not stop the others."""
    try:
        return _plan(one)
    except ValidationError as error:
        log.error("a document can't be read", model=one.name, error=str(error))
        return None


def _plan(one: FleetObject) -> Plan | None:
    document = ModelDocument.model_validate(one.document)
    train = document.train
    if train is None:
        return None
    files = document.files or {}
    inputs = dict(train.inputs or {})
    needed = {*(train.code or ()), *(name for name in inputs.values() if name in files)}
    default = Plan(one.name, one.owner_team)
    plan = Plan(
        model=one.name,
        owner_team=one.owner_team,
        command=train.command or (),
        entry=train.entry or "",
        files={name: files[name].digest for name in sorted(needed) if name in files},
        inputs=inputs,
        requirements=train.requirements or (),
        python=train.python or "",
        timeout_seconds=train.timeout or default.timeout_seconds,
        cooldown_seconds=default.cooldown_seconds if train.cooldown is None else train.cooldown,
    )
    return replace(plan, **_causes(one.name, train))


def _causes(model: str, train: Train) -> dict[str, Any]:
    told = train.triggers
    if told is None:
        return {"schedule": train.schedule or ""}
    alias = told.alias or ""
    return {
        "schedule": train.schedule or told.schedule or "",
        "aliases": (alias if "@" in alias else f"{model}@{alias}",) if alias else (),
        "data": tuple(name.partition("@")[0] for name in told.data or ()),
        "drift": bool(told.drift),
        "webhook": bool(told.webhook),
    }
