"""Verbs on templates: what new models of a team start with."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from modelfleet.core import audit
from modelfleet.core.authorization import Action, Principal, authorize
from modelfleet.core.clock import iso, now_us
from modelfleet.core.errors import InvalidInput, NotFound
from modelfleet.registry.base import Verbs
from modelfleet.registry.collaboration.tables import model_default, model_template
from modelfleet.registry.collaboration.types import Template
from modelfleet.registry.types import CRITICALITIES, ISOLATIONS

_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,119}")
_PACKAGE = re.compile(r"\s*([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)")


class TemplateVerbs(Verbs):
    def templates(self, actor: Principal, team: str | None = None) -> list[Template]:
        """Of the teams whose models `actor` may read, by team and name."""
        mine = model_template.c.namespace_id == self.namespace_id
        if team is not None:
            mine = sa.and_(mine, model_template.c.team == team)
        query = sa.select(model_template).where(mine)
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(model_template.c.team, model_template.c.name))
            return [_template(row) for row in rows if actor.may(Action.READ, row.team)]

    def get_template(self, actor: Principal, team: str, name: str) -> Template:
        authorize(actor, Action.READ, self._resource(f"{team}/{name}", team, "template"))
        with self._database.read() as connection:
            return self._template(connection, team, name)

    def set_template(self, actor: Principal, wanted: Template) -> Template:
        """Make it, or replace it. Models that were made with it stay as they are."""
        team, name = wanted.team, wanted.name
        if not team or len(team) > 120 or team == "*":
            raise InvalidInput("A template needs a team.")
        resource = self._resource(f"{team}/{name}"[:240], team, "template")
        authorize(actor, Action.REGISTER, resource)
        if not _NAME.fullmatch(name):
            raise InvalidInput(f"{name[:120]!r} can't name a template.")
        _check(wanted)
        defaults: dict[str, object] = {
            "criticality": wanted.criticality,
            "business_function": wanted.business_function,
            "isolation": wanted.isolation,
            "tags": dict(wanted.tags),
            "requirements": list(wanted.requirements),
        }
        with self._database.begin() as connection:
            connection.execute(sa.delete(model_template).where(self._same(team, name)))
            connection.execute(
                sa.insert(model_template).values(
                    namespace_id=self.namespace_id,
                    team=team,
                    name=name,
                    defaults=defaults,
                    updated_by=actor.name,
                    updated_at=now_us(),
                )
            )
            audit.record(connection, actor, "set-template", resource, defaults)
            return self._template(connection, team, name)

    def delete_template(self, actor: Principal, team: str, name: str) -> None:
        resource = self._resource(f"{team}/{name}"[:240], team, "template")
        authorize(actor, Action.REGISTER, resource)
        with self._database.begin() as connection:
            if not connection.execute(
                sa.delete(model_template).where(self._same(team, name))
            ).rowcount:
                raise NotFound(f"{team} has no template {name[:120]}.")
            audit.record(connection, actor, "delete-template", resource)

    def _template(self, connection: sa.Connection, team: str, name: str) -> Template:
        row = connection.execute(sa.select(model_template).where(self._same(team, name))).first()
        if row is None:
            raise NotFound(
                f"{team} has no template {name[:120]}.", hint="See: modelfleet templates list"
            )
        return _template(row)

    def _same(self, team: str, name: str) -> sa.ColumnElement[bool]:
        return sa.and_(
            model_template.c.namespace_id == self.namespace_id,
            model_template.c.team == team,
            model_template.c.name == name,
        )

    def _keep_defaults(self, connection: sa.Connection, model_id: str, used: Template) -> None:
        values = {"template": used.name, "requirements": list(used.requirements)}
        connection.execute(sa.insert(model_default).values(model_id=model_id, **values))

    def _with_defaults(
        self, connection: sa.Connection, model_id: str, requirements: Sequence[str]
    ) -> list[str]:
        """The requirements of a version, and those of its model's template it says nothing of."""
        kept: Any = connection.execute(
            sa.select(model_default.c.requirements).where(model_default.c.model_id == model_id)
        ).scalar()
        named = {_package(one) for one in requirements}
        more = [one for one in kept or () if _package(one) not in named]
        return sorted({*requirements, *more})


def _package(requirement: str) -> str:
    """Its normalized name."""
    match = _PACKAGE.match(requirement)
    return re.sub(r"[-_.]+", "-", match[1]).lower() if match else requirement


def _check(wanted: Template) -> None:
    if wanted.criticality is not None and wanted.criticality not in CRITICALITIES:
        raise InvalidInput(
            f"{wanted.criticality[:40]!r} is no criticality.",
            hint=f"Use one of {', '.join(CRITICALITIES)}.",
        )
    if wanted.isolation is not None and wanted.isolation not in ISOLATIONS:
        raise InvalidInput(
            f"{wanted.isolation[:40]!r} is no isolation.",
            hint=f"Use one of {', '.join(ISOLATIONS)}.",
        )
    for one in wanted.requirements:
        if not _PACKAGE.match(one) or not one.isprintable() or len(one) > 300:
            raise InvalidInput(f"{one[:120]!r} is no requirement.")
    if any(not key or len(key) > 250 for key in wanted.tags):
        raise InvalidInput("The key of a tag has 1 to 250 characters.")


def _template(row: sa.Row[*tuple[Any, ...]]) -> Template:
    found: Mapping[str, Any] = row.defaults
    return Template(
        team=row.team,
        name=row.name,
        updated_by=row.updated_by,
        updated_at=iso(row.updated_at),
        criticality=found["criticality"],
        business_function=found["business_function"],
        isolation=found["isolation"],
        tags=found["tags"],
        requirements=tuple(found["requirements"]),
    )
