"""What the gateway answered and refused: read from Envoy's counters, kept in evidence.db.

Envoy counts from its start, so what is kept is a running total and what Envoy said last. A new
Envoy counts from nothing. One that took over from its predecessor (hot restart) begins with an
unknown part of the predecessor's counts: what it says first is taken as known, so that at worst a
second is missing and nothing counts twice.
"""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from modelfleet.core import unix_http
from modelfleet.core.clock import now_us
from modelfleet.core.refusals import COUNTER, SCOPE, Reason
from modelfleet.telemetry.database import read_meta, write_meta

STEP_US = 10_000_000
"""Refusals are kept in steps of this length,"""
KEPT_US = 15 * 60_000_000
"""for so long; totals for ever."""
REQUESTS, REFUSED = "requests", "refused"
_EVERY_SECONDS = 1.0
_PATIENCE_SECONDS = 0.25
"""The collector has more to do than wait for the gateway."""
_TARGET = (
    f"/stats/prometheus?filter=^({SCOPE}\\.{COUNTER}|"
    r"http\.gateway\.downstream_rq_[1-5]xx$|server\.(hot_restart_epoch|uptime)$)"
)
_LINE = re.compile(r"(?m)^(\w+)\{(.*)\} (\d+)$")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_SERVER = "envoy_server_"
_CLASS = "envoy_response_code_class"
_BY_WORKER = "via_upstream"


@dataclass(frozen=True)
class Series:
    """kind `requests`: label is a class of codes (`2xx`); `refused`: a reason."""

    kind: str
    endpoint: str
    """empty if no endpoint was meant or found"""
    label: str


@dataclass(frozen=True)
class Reading:
    """All counters at one moment."""

    pid: int
    epoch: int
    """how often an Envoy took over from another one"""
    uptime: int
    """seconds, together with its predecessors"""
    values: dict[str, tuple[Series, int]]
    """by Envoy's own labels, of which several can mean one reason"""

    @property
    def complete(self) -> bool:
        """False of one that has not heard its predecessor's counts yet; its uptime comes with
        them."""
        return self.epoch == 0 or self.uptime > 0


def read(pid: int, text: str) -> Reading:
    """Envoy's page in the format of Prometheus."""
    server = {"epoch": 0, "uptime": 0}
    values = {}
    for name, labels, value in _LINE.findall(text):
        if name.startswith(_SERVER):
            server[name.rpartition("_")[2]] = int(value)
        elif (series := _series(dict(_LABEL.findall(labels)))) is not None:
            values[labels] = series, int(value)
    return Reading(pid, **server, values=values)


def _series(labels: dict[str, str]) -> Series | None:
    """None for what workers answered."""
    if _CLASS in labels:
        return Series(REQUESTS, "", f"{labels[_CLASS]}xx")
    if "limit" in labels:
        known = (Reason.OVERLOAD, Reason.RATE_LIMIT)
        reason = next((one for one in known if one == labels["limit"]), Reason.OTHER)
    elif labels.get("details", _BY_WORKER).startswith(_BY_WORKER):
        return None
    else:
        reason = reason_of(int(labels["code"]), labels["details"])
    return Series(REFUSED, labels.get("endpoint", ""), reason.value)


def reason_of(status: int, details: str) -> Reason:
    """Of an answer that Envoy gave by itself. details: its %RESPONSE_CODE_DETAILS%."""
    if status == 401:
        if "Jwt_is_missing" in details:
            return Reason.KEY_MISSING
        return Reason.KEY_EXPIRED if "Jwt_is_expired" in details else Reason.KEY_INVALID
    if status == 503 and details.startswith("overload"):
        return Reason.GATEWAY_FULL
    return _BY_STATUS.get(status, Reason.OTHER)


_BY_STATUS = {
    400: Reason.MALFORMED,
    403: Reason.NOT_ALLOWED,
    404: Reason.NOT_FOUND,
    408: Reason.SLOW_CLIENT,
    413: Reason.TOO_LARGE,
    431: Reason.TOO_LARGE,
    502: Reason.NO_WORKER,
    503: Reason.NO_WORKER,
    504: Reason.TIMEOUT,
}


class GatewayCounters:
    """Follows the gateway's counters. `look` asks it, `save` adds what is new."""

    def __init__(self, admin_socket: Path, connection: sqlite3.Connection) -> None:
        self._socket = admin_socket
        self._reading: Reading | None = None
        self._due = 0.0
        self._seen = dict(connection.execute("SELECT name, seen FROM gateway_counter"))

    def look(self) -> None:
        """Once a second; quick, whatever the gateway does."""
        now = time.monotonic()
        if now < self._due:
            return
        self._due = now + _EVERY_SECONDS
        answer = unix_http.get(self._socket, _TARGET, _PATIENCE_SECONDS)
        if answer is not None and answer.status == 200:
            reading = read(answer.pid, answer.body)
            self._reading = reading if reading.complete else None

    def save(self, connection: sqlite3.Connection) -> None:
        """In the collector's transaction: what was said and what is counted stay together."""
        reading, self._reading = self._reading, None
        if reading is None:
            return
        same = read_meta(connection, "gateway_pid") == reading.pid and (
            read_meta(connection, "gateway_epoch") == reading.epoch
        )
        if not same:
            self._seen.clear()
            connection.execute("UPDATE gateway_counter SET seen = 0")
            write_meta(connection, "gateway_pid", reading.pid)
            write_meta(connection, "gateway_epoch", reading.epoch)
        now = now_us()
        heir = not same and reading.epoch > 0
        for name, series, value, more in self._news(reading, heir):
            connection.execute(
                "INSERT INTO gateway_counter VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (name) "
                "DO UPDATE SET seen = excluded.seen, total = total + excluded.total",
                (name, series.kind, series.endpoint, series.label, value, more),
            )
            if more and series.kind == REFUSED:
                connection.execute(
                    "INSERT INTO refusal VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE "
                    "SET count = count + excluded.count",
                    (now // STEP_US * STEP_US, series.endpoint, series.label, more),
                )
        write_meta(connection, "gateway_seen", now)

    def _news(self, reading: Reading, heir: bool) -> Iterator[tuple[str, Series, int, int]]:
        """What has changed: name, series, value, and how much more it is."""
        for name, (series, value) in reading.values.items():
            before = self._seen.get(name, 0)
            if value != before:
                self._seen[name] = value
                more = value - before if value > before else value
                yield name, series, value, 0 if heir else more


def forget(connection: sqlite3.Connection, now: int) -> None:
    connection.execute("DELETE FROM refusal WHERE start < ?", (now - KEPT_US - STEP_US,))


# Reading -------------------------------------------------------------------------------------


def requests(connection: sqlite3.Connection) -> list[tuple[str, int]]:
    """(class of codes, requests) since the first start."""
    return connection.execute(
        "SELECT label, sum(total) FROM gateway_counter WHERE kind = ? "
        "GROUP BY label ORDER BY label",
        (REQUESTS,),
    ).fetchall()


def refused_ever(connection: sqlite3.Connection) -> list[tuple[str, str, int]]:
    """(endpoint, reason, requests) since the first start."""
    return connection.execute(
        "SELECT endpoint, label, sum(total) FROM gateway_counter WHERE kind = ? "
        "GROUP BY endpoint, label ORDER BY endpoint, label",
        (REFUSED,),
    ).fetchall()


def refused(connection: sqlite3.Connection, since_us: int) -> dict[str, dict[str, int]]:
    """Requests by endpoint and reason, in the steps that began since then."""
    found: dict[str, dict[str, int]] = {}
    for endpoint, reason, count in connection.execute(
        "SELECT endpoint, reason, sum(count) FROM refusal WHERE start >= ? "
        "GROUP BY endpoint, reason ORDER BY sum(count) DESC",
        (since_us,),
    ):
        found.setdefault(endpoint, {})[reason] = count
    return found
