"""Changes told to others: webhooks, fed by the audit log.

An audit event is written in the transaction of its change, so nothing that happened is missed and
nothing that was rolled back is told. `WebhookService` keeps the webhooks; `Dispatcher` turns new
audit events into deliveries and sends these, signed, until they are taken or given up.
"""

from modelfleet.events.dispatcher import Dispatcher
from modelfleet.events.service import Delivery, Webhook, WebhookService

__all__ = ["Delivery", "Dispatcher", "Webhook", "WebhookService"]
