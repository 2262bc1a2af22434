"""One signed POST. Signatures are those of MLflow, and of standardwebhooks.com for CloudEvents."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import socket
import ssl
import time
from dataclasses import dataclass

from modelfleet.events.addresses import Target

TIMEOUT = 10.0
"""seconds for connecting, and for each wait for bytes"""
_SHOWN = 2000
"""bytes of an answer that are kept"""


@dataclass(frozen=True)
class Answer:
    status: int
    body: str
    retry_after: float | None = None
    """seconds"""


def sign(secret: str, delivery_id: str, timestamp: str, body: str) -> str:
    """`v1,` and the base64 of HMAC-SHA256 over `id.timestamp.body`."""
    content = f"{delivery_id}.{timestamp}.{body}".encode()
    made = hmac.new(secret.encode(), content, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(made).decode()}"


def headers(format_: str, secret: str, delivery_id: str, body: str) -> dict[str, str]:
    moment = str(int(time.time()))
    signature = sign(secret, delivery_id, moment, body) if secret else None
    if format_ == "mlflow":
        names = ("X-MLflow-Delivery-Id", "X-MLflow-Timestamp", "X-MLflow-Signature")
        kind = "application/json"
    else:
        names = ("webhook-id", "webhook-timestamp", "webhook-signature")
        kind = "application/cloudevents+json"
    found = {"Content-Type": kind, names[0]: delivery_id, names[1]: moment}
    return found | ({names[2]: signature} if signature else {})


def post(target: Target, given: dict[str, str], body: str) -> Answer:
    """Raises `OSError` or `http.client.HTTPException`. Redirects are not followed."""
    connection = _connect(target)
    try:
        connection.request("POST", target.path, body.encode(), given)
        response = connection.getresponse()
        text = response.read(_SHOWN).decode("utf-8", "replace")
        return Answer(response.status, text, _seconds(response.getheader("retry-after")))
    finally:
        connection.close()


def _connect(target: Target) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection(target.host, target.port, timeout=TIMEOUT)
    last: OSError | None = None
    for address in target.addresses:
        try:
            plain = socket.create_connection((address, target.port), TIMEOUT)
            break
        except OSError as error:
            last = error
    else:
        raise last or OSError("There is no address to connect to.")
    connection.sock = plain
    if target.scheme == "https":
        try:
            context = ssl.create_default_context()
            connection.sock = context.wrap_socket(plain, server_hostname=target.host)
        except BaseException:
            plain.close()
            raise
    return connection


def _seconds(text: str | None) -> float | None:
    try:
        return min(max(float(text), 0.0), 3600.0) if text else None
    except ValueError:
        return None
