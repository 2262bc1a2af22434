"""What goes into the archive: (path in it, content), read from files, never changed."""

from __future__ import annotations

import json
import os
import platform
import sqlite3
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import distributions
from pathlib import Path

import msgspec
import sqlalchemy as sa

from modelfleet import __version__
from modelfleet.core.errors import FleetError
from modelfleet.core.migrate import revision_of
from modelfleet.engines.local import records
from modelfleet.host.compose import files_of
from modelfleet.host.doctor import Examined, Report
from modelfleet.host.support import logs
from modelfleet.host.support.redact import GONE, public_settings, quiet
from modelfleet.serving.gateway import admin
from modelfleet.serving.pools import read_pools

Part = tuple[str, str]
_AUDIT_EVENTS = 500
_NAMED = ("model", "version", "endpoint", "rollout", "pipeline", "environment", "alert")
"""kinds whose names are no persons'"""
_GATEWAY_FILES = ("bootstrap.json", "lds.json", "cds.json", "rds.json")
_IN_CONFIGURATION = ("inline_string", "inline_bytes", "private_key", "x-mf-gateway")
_TOTALS = "SELECT version_index, requests, errors, last_seen FROM total"


def readme(report: Report) -> Part:
    return "README.txt", (
        f"modelfleet {report.version}, {report.at}\n\n"
        "doctor.json     what was examined, what is wrong\n"
        "settings.json   settings, without secrets\n"
        "versions.json   of everything installed\n"
        "status.json     processes and pools; what they use\n"
        "pools.json      versions that workers should hold\n"
        "gateway/        configuration and counters, without secrets\n"
        "databases.json  schema and number of rows; no content\n"
        "evidence.json   counters\n"
        "audit.json      newest changes, without details and persons' names\n"
        "logs/           ends of logs; without what model code said\n\n"
        "Names of models, endpoints and teams are in here; keys, tokens, certificates' keys,\n"
        "and inputs and outputs of predictions are not. Look through it before you send it.\n"
    )


def doctor(report: Report) -> Part:
    plain = msgspec.to_builtins(report, enc_hook=str)
    for one in plain["findings"]:
        one["says"] = quiet(one["says"])
    return "doctor.json", _json(plain | {"ok": report.ok})


def settings(examined: Examined) -> Part:
    plain = msgspec.to_builtins(examined.settings, enc_hook=str)
    shown = public_settings(plain) | {"complaint": examined.complaint}
    return "settings.json", _json(shown)


def versions(_: Examined) -> Part:
    installed = {one.metadata["Name"]: one.version for one in distributions()}
    found: dict[str, object] = {
        "modelfleet": __version__,
        "python": sys.version,
        "system": platform.platform(),
        "libc": " ".join(platform.libc_ver()),
        "sqlite": sqlite3.sqlite_version,
        "packages": dict(sorted(installed.items())),
    }
    return "versions.json", _json(found)


def status(examined: Examined) -> Part:
    found = msgspec.to_builtins(examined.status, enc_hook=str)
    for one in found["observed"]["processes"].values():
        one["last_exit"] = quiet(one["last_exit"])
    for pool in found["observed"]["pools"].values():
        for one in pool["replicas"]:
            one["last_exit"], one["error"] = quiet(one["last_exit"]), quiet(one["error"])
    found["usage"] = {
        one.name: _usage(one.pid) for one in records(files_of(examined.layout)) if one.alive()
    }
    found["load"] = os.getloadavg()
    found["memory"] = Path("/proc/meminfo").read_text().splitlines()[:5]
    found["folders"] = {
        path.name: _size(path) for path in sorted(examined.layout.home.iterdir()) if path.is_dir()
    }
    return "status.json", _json(found)


def _usage(pid: int) -> dict[str, object]:
    """Of one process; empty if it ended meanwhile."""
    import psutil

    try:
        process = psutil.Process(pid)
        with process.oneshot():
            cpu = process.cpu_times()
            return {
                "pid": pid,
                "resident_bytes": process.memory_info().rss,
                "cpu_seconds": cpu.user + cpu.system,
                "threads": process.num_threads(),
                "files": process.num_fds(),
            }
    except psutil.Error:
        return {}


def _size(folder: Path) -> dict[str, int]:
    files = size = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                size += os.lstat(os.path.join(place, name)).st_size
            except FileNotFoundError:
                continue
            files += 1
    return {"files": files, "bytes": size}


def pools(examined: Examined) -> Part:
    found = read_pools(examined.layout) if examined.layout.desired.is_dir() else {}
    plain = msgspec.to_builtins(found)
    for pool in plain.values():
        for version in pool["versions"]:
            version["quarantined"] = quiet(version["quarantined"])
    return "pools.json", _json(plain)


def gateway(examined: Examined) -> Iterator[Part]:
    socket = examined.layout.gateway_admin_socket
    dump = admin.get(socket, "/config_dump") if examined.status.running else None
    if dump is not None:
        yield "gateway/config_dump.json", _json(_public(json.loads(dump)))
        counters = admin.get(socket, "/stats?usedonly")
        yield "gateway/stats.txt", counters or ""
        return
    for name in _GATEWAY_FILES:
        path = examined.layout.gateway / name
        if path.exists():
            yield f"gateway/{name}", _json(_public(json.loads(path.read_bytes())))


def _public(found: object) -> object:
    """Configuration without inlined content and without the header that proves the gateway."""
    if isinstance(found, list):
        return [_public(one) for one in found]
    if not isinstance(found, dict):
        return found
    if found.get("key") in _IN_CONFIGURATION:
        return {**found, "value": GONE}
    return {
        name: GONE if name in _IN_CONFIGURATION else _public(one) for name, one in found.items()
    }


def databases(examined: Examined) -> Part:
    shown: dict[str, object] = {}
    paths = [examined.layout.fleet_database, examined.layout.evidence_database]
    if examined.settings.database.url:
        shown["PostgreSQL"] = _server(examined)
        paths = paths[1:]
    for path in paths:
        with examined.database(path) as connection:
            if connection is None:
                continue
            made = connection.execute("SELECT type, name, sql FROM sqlite_master").fetchall()
            tables = [row["name"] for row in made if row["type"] == "table"]
            shown[path.name] = {
                "bytes": path.stat().st_size,
                "rows": {name: _count(connection, name) for name in tables},
                "schema": [row["sql"] for row in made if row["sql"]],
            }
    return "databases.json", _json(shown)


def _server(examined: Examined) -> dict[str, object]:
    try:
        with examined.fleet() as connection:
            assert connection is not None
            size = sa.text("SELECT pg_database_size(current_database())")
            found = {
                "version": connection.execute(sa.text("SHOW server_version")).scalar(),
                "bytes": connection.execute(size).scalar(),
                "schema": revision_of(connection),
            }
            rows = {
                name: connection.execute(
                    sa.select(sa.func.count()).select_from(sa.table(name))
                ).scalar()
                for name in sa.inspect(connection).get_table_names()
            }
            return found | {"rows": rows}
    except FleetError as error:
        return {"trouble": error.message}


def _count(connection: sqlite3.Connection, table: str) -> int:
    quoted = table.replace('"', '""')
    return int(connection.execute(f'SELECT count(*) FROM "{quoted}"').fetchone()[0])


def evidence(examined: Examined) -> Part:
    shown: dict[str, object] = {}
    with examined.database(examined.layout.evidence_database) as connection:
        if connection is not None:
            shown["counters"] = dict(connection.execute("SELECT key, value FROM meta").fetchall())
            shown["versions"] = [dict(row) for row in connection.execute(_TOTALS)]
            shown["dropped"] = dict(
                connection.execute("SELECT name, dropped FROM writer").fetchall()
            )
            shown["segments"] = [dict(row) for row in connection.execute("SELECT * FROM segment")]
    return "evidence.json", _json(shown)


def audit(examined: Examined) -> Part:
    """Who did it stands there as an id only; details could hold anything."""
    query = sa.text(
        "SELECT sequence, at, principal_id, action, kind, resource, team, hash FROM audit_event "
        "ORDER BY sequence DESC LIMIT :limit"
    )
    try:
        with examined.fleet() as connection:
            rows = connection.execute(query, {"limit": _AUDIT_EVENTS}).all() if connection else []
    except FleetError as error:
        return "audit.json", _json({"trouble": error.message})
    shown = [dict(row._mapping) for row in rows]
    for one in shown:
        if one["kind"] not in _NAMED:
            one["resource"] = GONE
    return "audit.json", _json(shown)


def log_ends(examined: Examined, lines: int) -> Iterator[Part]:
    for name, text in logs.ends(examined.layout.logs, lines):
        yield f"logs/{name}", text


SINGLE: tuple[Callable[[Examined], Part], ...] = (
    settings,
    versions,
    status,
    pools,
    databases,
    evidence,
    audit,
)


def _json(found: object) -> str:
    return json.dumps(found, indent=1, ensure_ascii=False, default=str)
