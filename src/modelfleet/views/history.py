"""What became of a model: every change of it and of its endpoints, from the audit log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from modelfleet.core.audit import audit_event
from modelfleet.core.authorization import Principal
from modelfleet.core.clock import iso
from modelfleet.wiring import Fleet


@dataclass(frozen=True)
class HistoryEntry:
    at: str
    who: str
    action: str
    """the verb, as in the audit log"""
    version: str
    """empty if the change is not about one version"""
    endpoint: str
    sentence: str
    sequence: int
    """of the audit event"""


def history(fleet: Fleet, caller: Principal, name: str, *, limit: int = 200) -> list[HistoryEntry]:
    """Newest first. Also what happened under names that the model had before, and on endpoints
    that are gone."""
    fleet.registry.get_model(caller, name)
    table = audit_event
    with fleet.database.read() as connection:
        names = _names(connection, name)
        made = connection.execute(
            sa.select(table.c.resource, table.c.details).where(
                table.c.kind == "endpoint", table.c.action == "create-endpoint"
            )
        )
        endpoints = sorted({row.resource for row in made if row.details.get("model") in names})
        mine = sa.or_(
            sa.and_(table.c.kind == "model", table.c.resource.in_(sorted(names))),
            sa.and_(table.c.kind == "endpoint", table.c.resource.in_(endpoints)),
        )
        rows = (
            connection.execute(
                sa.select(table).where(mine).order_by(table.c.sequence.desc()).limit(limit)
            )
            .mappings()
            .all()
        )
        started = connection.execute(
            sa.select(table.c.details).where(
                table.c.kind == "endpoint",
                table.c.resource.in_(endpoints),
                table.c.action == "start-rollout",
            )
        )
        targets = {row.details["rollout"]: row.details["to"] for row in started}
    return [_entry(dict(row), targets) for row in rows]


def _names(connection: sa.Connection, name: str) -> set[str]:
    """The name, and those that led to it."""
    renamed = connection.execute(
        sa.select(audit_event.c.resource, audit_event.c.details).where(
            audit_event.c.kind == "model", audit_event.c.action == "rename-model"
        )
    ).all()
    names, before = (
        {name},
        {r.resource: r.details["before"] for r in renamed if "before" in r.details},
    )
    while (earlier := before.pop(name, None)) is not None and earlier not in names:
        names.add(earlier)
        name = earlier
    return names


def _entry(row: Mapping[str, Any], targets: Mapping[str, str]) -> HistoryEntry:
    details: dict[str, Any] = row["details"]
    target = details.get("to") or targets.get(details.get("rollout", ""), "")
    version = details.get("version") or str(target).rpartition("@")[2]
    return HistoryEntry(
        at=iso(row["at"]),
        who=row["principal"],
        action=row["action"],
        version=str(version),
        endpoint=row["resource"] if row["kind"] == "endpoint" else "",
        sentence=_sentence(
            row["action"], details | {"who": row["principal"]}, str(version), row["resource"]
        ),
        sequence=row["sequence"],
    )


def _sentence(action: str, details: Mapping[str, Any], version: str, resource: str) -> str:
    said = {
        "create-model": "The model was created for {owner_team}.",
        "register-version": "Version {version} was registered.",
        "prepare-version": "Version {version} is ready; it serves as {serving}.",
        "fail-version": "Version {version} can't serve: {reason}",
        "set-alias": "The alias {alias} points at {version}.",
        "delete-alias": "The alias {alias} was removed.",
        "promote-version": "Version {version} moved to the stage {stage}.",
        "mark-deprecated": "Version {version} is deprecated. {reason}",
        "mark-retired": "Version {version} is retired. {reason}",
        "mark-active": "Version {version} is active again. {reason}",
        "delete-version": "Version {version} was deleted.",
        "transfer-model": "The model went from {before} to {owner_team}.",
        "create-endpoint": "The endpoint {resource} was made.",
        "delete-endpoint": "The endpoint {resource} was removed.",
        "start-rollout": "A rollout of {version} to {resource} began ({strategy}).",
        "move-rollout": "The rollout of {version} to {resource} is {state}: {reason}",
        "watch-model": "{who} watches the model.",
        "unwatch-model": "{who} watches the model no longer.",
        "request-rebuild": "A rebuild of {version} was asked for.",
        "add-owner": "{owner} became an owner.",
        "remove-owner": "{owner} is no owner any more.",
        "comment-version": "A comment on {version}: {text}",
        "edit-comment": "A comment on {version} was changed: {text}",
        "delete-comment": "A comment of {author} on {version} was deleted.",
        "request-review": "A review of {version} was asked of {reviewer}{role}. {note}",
        "answer-review": "The review of {version} ended: {state}. {comment}",
        "withdraw-review": "A request to review {version} was withdrawn.",
        "rebuild-version": "Version {version} was rebuilt: {sentence}",
        "add-edge": "Lineage: {source} {relation} {destination}.",
        "remove-edge": "No longer lineage: {source} {relation} {destination}.",
        "set-version-tag": "Version {version} was tagged {key}={value}.",
    }.get(action)
    known = {key: str(value) for key, value in details.items()}
    known |= {"version": version, "resource": resource}
    if said is None:
        return f"{action.replace('-', ' ')}."
    return said.format_map(_Known(known)).strip()


class _Known(dict[str, str]):
    def __missing__(self, key: str) -> str:
        return "-"
