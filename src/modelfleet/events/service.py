"""Verbs on webhooks. Whoever manages access may have the fleet's changes sent elsewhere."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from modelfleet.core import audit
from modelfleet.core.authorization import Action, Principal, Resource, authorize
from modelfleet.core.clock import iso, now_us
from modelfleet.core.database import Database
from modelfleet.core.errors import FleetError, InvalidInput, NotFound
from modelfleet.core.ids import new_id
from modelfleet.core.sealing import Sealer
from modelfleet.events import messages, outlets
from modelfleet.events.tables import delivery, webhook

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")


@dataclass(frozen=True)
class Webhook:
    id: str
    name: str
    url: str
    format: str
    """one of `outlets.FORMATS`"""
    events: tuple[str, ...]
    """`entity.action` of MLflow; audit actions, `*`, or `default` for notifications"""
    description: str
    active: bool
    signed: bool
    created_at: int
    """microseconds since 1970"""
    updated_at: int
    """microseconds since 1970"""


@dataclass(frozen=True)
class Delivery:
    id: str
    event: str
    status: str
    """pending, delivered or failed"""
    attempts: int
    response_status: int | None
    error: str
    created_at: int
    """microseconds since 1970"""


@dataclass(frozen=True)
class Test:
    success: bool
    response_status: int | None = None
    response_body: str | None = None
    error_message: str | None = None


class WebhookService:
    """Bound to one namespace; `within` gives that of another."""

    def __init__(
        self,
        database: Database,
        sealer: Sealer,
        namespace: str,
        namespace_id: str,
        *,
        private: bool,
    ) -> None:
        self._database = database
        self._sealer = sealer
        self._namespace = namespace
        self._namespace_id = namespace_id
        self._private = private

    def within(self, namespace: str, namespace_id: str) -> WebhookService:
        return WebhookService(
            self._database, self._sealer, namespace, namespace_id, private=self._private
        )

    def create(
        self,
        actor: Principal,
        name: str,
        url: str,
        events: Sequence[str],
        *,
        format_: str = "cloudevents",
        description: str = "",
        secret: str = "",
        active: bool = True,
    ) -> Webhook:
        resource = Resource("webhook", name)
        authorize(actor, Action.MANAGE_ACCESS, resource)
        self._check(name, url, events, format_)
        outlets.check_secret(format_, secret)
        if format_ == "apprise":
            secret, url = url, outlets.shown(format_, url)
        made, now = new_id(), now_us()
        with self._database.begin() as connection:
            last = connection.execute(sa.select(sa.func.max(audit.audit_event.c.sequence))).scalar()
            connection.execute(
                sa.insert(webhook).values(
                    id=made,
                    namespace_id=self._namespace_id,
                    namespace=self._namespace,
                    name=name,
                    url=url,
                    format=format_,
                    events=list(dict.fromkeys(events)),
                    description=description,
                    secret=self._sealer.seal(secret) if secret else "",
                    active=active,
                    since=last or 0,
                    created_at=now,
                    updated_at=now,
                )
            )
            details = {"url": url, "events": list(events), "format": format_}
            audit.record(connection, actor, "create-webhook", resource, details)
        return self.get(actor, made)

    def update(
        self,
        actor: Principal,
        webhook_id: str,
        *,
        name: str | None = None,
        url: str | None = None,
        events: Sequence[str] | None = None,
        description: str | None = None,
        secret: str | None = None,
        active: bool | None = None,
    ) -> Webhook:
        known = self.get(actor, webhook_id)
        address = url or (self._secret(webhook_id) if known.format == "apprise" else known.url)
        self._check(name or known.name, address, events or known.events, known.format)
        if secret is not None:
            outlets.check_secret(known.format, secret)
        if known.format == "apprise":
            secret, url = url, url and outlets.shown(known.format, url)
        given = {
            "name": name,
            "url": url,
            "events": list(events) if events else None,
            "description": description,
            "active": active,
        }
        changes = {key: value for key, value in given.items() if value is not None}
        sealed = {} if secret is None else {"secret": self._sealer.seal(secret) if secret else ""}
        with self._database.begin() as connection:
            connection.execute(
                sa.update(webhook)
                .where(webhook.c.id == webhook_id)
                .values(**changes, **sealed, updated_at=now_us())
            )
            details = changes | ({"secret": "changed"} if sealed else {})
            resource = Resource("webhook", known.name)
            audit.record(connection, actor, "update-webhook", resource, details)
        return self.get(actor, webhook_id)

    def _check(self, name: str, url: str, events: Sequence[str], format_: str) -> None:
        if not _NAME.fullmatch(name):
            raise InvalidInput(
                f"Webhook name {name[:100]!r} is invalid. It must start and end with a letter or "
                "digit, be less than 63 characters long, and contain only letters, digits, dots "
                "(.), underscores (_), and hyphens (-)."
            )
        outlets.check(format_, url, private=self._private)
        if not events:
            raise InvalidInput(
                "Webhook events must be a non-empty list of WebhookEvent objects: []."
            )
        for event in events:
            self._check_event(event, format_)

    def _check_event(self, event: str, format_: str) -> None:
        if format_ != "mlflow":
            if event != "*" and not outlets.ACTION.fullmatch(event):
                raise InvalidInput(f"{event[:80]!r} is no action; see: modelfleet audit list")
            return
        entity, _, action = event.partition(".")
        if entity not in messages.ENTITIES:
            raise InvalidInput(f"Invalid entity '{entity[:80]}'.")
        if action not in messages.ENTITIES[entity]:
            raise InvalidInput(
                f"Invalid action '{action[:80]}' for entity '{entity}'. Valid actions are: "
                f"{list(messages.ENTITIES[entity])}"
            )

    def get(self, actor: Principal, webhook_id: str) -> Webhook:
        found = self._where(actor, webhook.c.id == webhook_id)
        if not found:
            raise NotFound(f"Webhook with ID {webhook_id[:64]} not found.")
        return found[0]

    def list_webhooks(
        self, actor: Principal, *, limit: int = 100, offset: int = 0
    ) -> list[Webhook]:
        """Oldest first."""
        return self._where(actor, sa.true(), limit, offset)

    def _where(
        self,
        actor: Principal,
        condition: sa.ColumnElement[bool],
        limit: int = 1,
        offset: int = 0,
    ) -> list[Webhook]:
        authorize(actor, Action.MANAGE_ACCESS, Resource("webhook", "*"))
        query = (
            sa.select(webhook)
            .where(webhook.c.namespace_id == self._namespace_id, condition)
            .order_by(webhook.c.created_at, webhook.c.id)
            .limit(limit)
            .offset(offset)
        )
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        return [
            Webhook(
                r.id,
                r.name,
                r.url,
                r.format,
                tuple(r.events),
                r.description,
                r.active,
                bool(r.secret),
                r.created_at,
                r.updated_at,
            )
            for r in rows
        ]

    def delete(self, actor: Principal, webhook_id: str) -> None:
        known = self.get(actor, webhook_id)
        with self._database.begin() as connection:
            connection.execute(sa.delete(delivery).where(delivery.c.webhook_id == webhook_id))
            connection.execute(sa.delete(webhook).where(webhook.c.id == webhook_id))
            audit.record(connection, actor, "delete-webhook", Resource("webhook", known.name))

    def deliveries(self, actor: Principal, webhook_id: str, limit: int = 50) -> list[Delivery]:
        """Newest first."""
        self.get(actor, webhook_id)
        query = (
            sa.select(delivery)
            .where(delivery.c.webhook_id == webhook_id)
            .order_by(delivery.c.created_at.desc(), delivery.c.sequence.desc())
            .limit(limit)
        )
        with self._database.read() as connection:
            return [
                Delivery(
                    r.id, r.event, r.status, r.attempts, r.response_status, r.error, r.created_at
                )
                for r in connection.execute(query)
            ]

    def test(self, actor: Principal, webhook_id: str, event: str | None = None) -> Test:
        """Send an example now; whatever comes back is the result."""
        known = self.get(actor, webhook_id)
        wanted = event or known.events[0]
        self._check_event(wanted, known.format)
        at = iso(now_us())
        if known.format == "mlflow":
            body = json.dumps(messages.mlflow_body(wanted, messages.EXAMPLES[wanted], at))
        else:
            row = {"sequence": 0, "action": wanted, "kind": "webhook", "resource": known.name}
            row |= {"principal": actor.name, "team": "*", "correlation_id": actor.correlation_id}
            row |= {"details": {"test": True, "reason": "A test.", "opened": 1} | _EXAMPLE}
            told = outlets.Told(row, at, commit="0" * 40)
            body = json.dumps(outlets.body(known.format, told))
        try:
            answer = outlets.send(
                known.format,
                known.url,
                self._secret(webhook_id),
                new_id(),
                body,
                private=self._private,
            )
        except (OSError, http.client.HTTPException, FleetError, ValueError) as error:
            return Test(False, error_message=f"Failed to test webhook: {error!r}")
        return Test(answer.status < 400, answer.status, answer.body)

    def _secret(self, webhook_id: str) -> str:
        query = sa.select(webhook.c.secret).where(webhook.c.id == webhook_id)
        with self._database.read() as connection:
            sealed = connection.execute(query).scalar_one()
        return self._sealer.open(sealed) if sealed else ""


_EXAMPLE = {"gate": "example", "verdict": "pass", "state": "succeeded"}
