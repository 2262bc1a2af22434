"""Verbs that change what a version counts as: aliases, stages, tags, lifecycle."""

from __future__ import annotations

import re
from dataclasses import dataclass

import sqlalchemy as sa

from modelfleet.core import audit
from modelfleet.core.authorization import Action, Principal, Resource, authorize
from modelfleet.core.errors import Conflict, InvalidInput, NotFound, Referenced
from modelfleet.registry import store
from modelfleet.registry.tables import alias, model, model_version, stage, version_tag
from modelfleet.registry.types import Stage, Version
from modelfleet.registry.versions import VersionVerbs

_ALIAS = re.compile(r"[\w-]{1,250}")
_STAGE = re.compile(r"[A-Za-z][\w-]{0,59}")


@dataclass(frozen=True)
class Use:
    """Somebody who still uses a version."""

    kind: str
    """endpoint, rollout, pipeline, batch, alias, version or application"""
    name: str


class StandingVerbs(VersionVerbs):
    # Aliases -----------------------------------------------------------------------------------

    def set_alias(
        self,
        actor: Principal,
        name: str,
        alias_name: str,
        reference: str,
        *,
        protected: bool | None = None,
    ) -> Version:
        """Point an alias at a version. A protected one is moved and freed by who may roll out."""
        if not _ALIAS.fullmatch(alias_name) or re.fullmatch(r"(?i)latest|v?\d+", alias_name):
            raise InvalidInput(f"{alias_name[:100]!r} can't be an alias.")
        with self._database.begin() as connection:
            found = self._version(connection, name, reference)
            resource = self._resource(found.model, found.owner_team)
            guarded, before = self._take_alias(connection, actor, resource, found, alias_name)
            keep = guarded if protected is None else protected
            if keep != guarded:
                authorize(actor, Action.ROLLOUT, resource)
            connection.execute(
                sa.insert(alias).values(
                    model_id=found.model_id, name=alias_name, version_id=found.id, protected=keep
                )
            )
            store.touch_model(connection, found.model_id)
            details = {
                "alias": alias_name,
                "version": found.version,
                "sequence": found.sequence,
                "before": before,
                "protected": keep,
            } | self._mark(connection, found.model_id)
            audit.record(connection, actor, "set-alias", resource, details)
            return self._version_by_id(connection, found.id)

    def _take_alias(
        self,
        connection: sa.Connection,
        actor: Principal,
        resource: Resource,
        found: Version,
        alias_name: str,
    ) -> tuple[bool, str]:
        """Remove an alias that is to be set anew; was it protected, and where did it point?"""
        own = sa.and_(alias.c.model_id == found.model_id, alias.c.name == alias_name)
        row = connection.execute(
            sa.select(alias.c.protected, model_version.c.semver)
            .join(model_version, model_version.c.id == alias.c.version_id)
            .where(own)
        ).first()
        guarded = row is not None and row.protected
        authorize(actor, Action.ROLLOUT if guarded else Action.REGISTER, resource)
        connection.execute(sa.delete(alias).where(own))
        return guarded, row.semver if row else ""

    def delete_alias(self, actor: Principal, name: str, alias_name: str) -> None:
        with self._database.begin() as connection:
            found = self._model(connection, name)
            resource = self._resource(found.name, found.owner_team)
            own = sa.and_(alias.c.model_id == found.id, alias.c.name == alias_name)
            row = connection.execute(sa.select(alias.c.protected).where(own)).first()
            guarded = row is not None and row.protected
            authorize(actor, Action.ROLLOUT if guarded else Action.REGISTER, resource)
            if row is None:
                raise NotFound(f"{name} has no alias {alias_name}.")
            connection.execute(sa.delete(alias).where(own))
            store.touch_model(connection, found.id)
            details = {"alias": alias_name} | self._mark(connection, found.id)
            audit.record(connection, actor, "delete-alias", resource, details)

    # Stages ------------------------------------------------------------------------------------

    def list_stages(self) -> list[Stage]:
        with self._database.read() as connection:
            return store.stages(connection, self.namespace_id)

    def set_stage(self, actor: Principal, name: str, position: int, protected: bool) -> Stage:
        """Add a stage of the team's own, or change one."""
        if not _STAGE.fullmatch(name) or name.lower() in ("none", "latest"):
            raise InvalidInput(f"{name[:60]!r} can't name a stage.")
        resource = Resource("stage", self._qualified(name))
        authorize(actor, Action.MANAGE_ACCESS, resource)
        with self._database.begin() as connection:
            same = sa.and_(stage.c.namespace_id == self.namespace_id, stage.c.name == name)
            connection.execute(sa.delete(stage).where(same))
            connection.execute(
                sa.insert(stage).values(
                    namespace_id=self.namespace_id,
                    name=name,
                    position=position,
                    protected=protected,
                )
            )
            details = {"position": position, "protected": protected}
            audit.record(connection, actor, "set-stage", resource, details)
        return Stage(name, position, protected)

    def delete_stage(self, actor: Principal, name: str) -> None:
        resource = Resource("stage", self._qualified(name))
        authorize(actor, Action.MANAGE_ACCESS, resource)
        with self._database.begin() as connection:
            used = store.versions(connection, self._in_stage(name), 1)
            if used:
                raise Referenced(f"{used[0].name} is in the stage {name}.", holders=[used[0].name])
            same = sa.and_(stage.c.namespace_id == self.namespace_id, stage.c.name == name)
            if not connection.execute(sa.delete(stage).where(same)).rowcount:
                raise NotFound(f"There is no stage {name}.")
            audit.record(connection, actor, "delete-stage", resource)

    def _in_stage(self, name: str) -> sa.ColumnElement[bool]:
        return sa.and_(model_version.c.stage == name, model.c.namespace_id == self.namespace_id)

    def promote(
        self, actor: Principal, name: str, reference: str, to: str, *, replace: bool = False
    ) -> Version:
        """Move a version into a stage; empty takes it out of all. Several may share a stage.

        `replace` archives every other version of the model in that stage. A version that failed
        or was retired can't be promoted; a protected stage asks for the right to roll out.
        """
        with self._database.begin() as connection:
            found = self._version(connection, name, reference)
            resource = self._resource(found.model, found.owner_team)
            known = {one.name: one for one in store.stages(connection, self.namespace_id)}
            if to and to not in known:
                raise InvalidInput(
                    f"There is no stage {to[:60]!r}.", hint=f"Known: {', '.join(known)}."
                )
            guarded = any(s in known and known[s].protected for s in (to, found.stage))
            authorize(actor, Action.ROLLOUT if guarded else Action.REGISTER, resource)
            if to and (found.status == "failed" or found.lifecycle == "retired"):
                state = "failed its checks" if found.status == "failed" else "is retired"
                raise Conflict(f"{found.name} {state} and can't be promoted.")
            if replace and to:
                others = sa.and_(
                    model_version.c.model_id == found.model_id,
                    model_version.c.stage == to,
                    model_version.c.id != found.id,
                )
                connection.execute(sa.update(model_version).where(others).values(stage="archived"))
            store.set_version(connection, found.id, stage=to)
            store.touch_model(connection, found.model_id)
            details = {"version": found.version, "sequence": found.sequence}
            details |= {"stage": to, "before": found.stage, "replace": replace}
            audit.record(connection, actor, "promote-version", resource, details)
            self._ready.pop(found.id, None)
            return self._version_by_id(connection, found.id)

    # Tags and descriptions ---------------------------------------------------------------------

    def describe_version(
        self, actor: Principal, name: str, reference: str, description: str
    ) -> Version:
        with self._database.begin() as connection:
            found = self._version(connection, name, reference)
            resource = self._resource(found.model, found.owner_team)
            authorize(actor, Action.REGISTER, resource)
            store.set_version(connection, found.id, description=description)
            details = {"version": found.version, "description": description[:1000]}
            details["sequence"] = str(found.sequence)
            audit.record(connection, actor, "update-version", resource, details)
            return self._version_by_id(connection, found.id)

    def set_version_tag(
        self, actor: Principal, name: str, reference: str, key: str, value: str
    ) -> Version:
        with self._database.begin() as connection:
            found = self._version(connection, name, reference)
            resource = self._resource(found.model, found.owner_team)
            authorize(actor, Action.REGISTER, resource)
            store.set_tag(connection, version_tag, found.id, key, value)
            store.set_version(connection, found.id)
            details: dict[str, object] = {"version": found.version, "sequence": found.sequence}
            details |= {"key": key, "value": value[:1000]}
            details |= self._mark(connection, found.model_id)
            audit.record(connection, actor, "set-version-tag", resource, details)
            return self._version_by_id(connection, found.id)

    def delete_version_tag(self, actor: Principal, name: str, reference: str, key: str) -> None:
        with self._database.begin() as connection:
            found = self._version(connection, name, reference)
            resource = self._resource(found.model, found.owner_team)
            authorize(actor, Action.REGISTER, resource)
            store.delete_tag(connection, version_tag, found.id, key)
            store.set_version(connection, found.id)
            details: dict[str, object] = {"version": found.version, "sequence": found.sequence}
            details["key"] = key
            details |= self._mark(connection, found.model_id)
            audit.record(connection, actor, "delete-version-tag", resource, details)

    # Lifecycle ---------------------------------------------------------------------------------

    def set_lifecycle(
        self, actor: Principal, name: str, reference: str, lifecycle: str, reason: str = ""
    ) -> Version:
        """`deprecated` warns whoever looks; `retired` also leaves every range and stage, and is
        refused while somebody uses the version; `active` takes either back."""
        if lifecycle not in ("active", "deprecated", "retired"):
            raise InvalidInput(f"{lifecycle!r} is no lifecycle: active, deprecated or retired.")
        with self._database.begin() as connection:
            found = self._version(connection, name, reference)
            resource = self._resource(found.model, found.owner_team)
            authorize(actor, Action.DELETE if lifecycle == "retired" else Action.REGISTER, resource)
            values = {"lifecycle": lifecycle, "lifecycle_reason": reason[:2000]}
            if lifecycle == "retired":
                self._refuse_if_held(connection, found)
                values["stage"] = ""
                connection.execute(sa.delete(alias).where(alias.c.version_id == found.id))
            store.set_version(connection, found.id, **values)
            details = {"version": found.version, "lifecycle": lifecycle, "reason": reason[:2000]}
            audit.record(connection, actor, f"mark-{lifecycle}", resource, details)
            self._ready.pop(found.id, None)
            return self._version_by_id(connection, found.id)

    def users_of(self, actor: Principal, name: str, reference: str) -> list[Use]:
        """Who still uses a version: what holds it, and the aliases that point at it."""
        with self._database.read() as connection:
            found = self._version(connection, name, reference)
            authorize(actor, Action.READ, self._resource(found.model, found.owner_team))
            held = [Use(*one.split("/", 1)) for one in store.holders(connection, found.id)]
            held += [Use("application", one) for one in self._applications(connection, found)]
        return held + [Use("alias", one) for one in found.aliases]
