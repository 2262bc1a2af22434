"""The doctor on homes that are new, stopped, half there and broken."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from modelfleet.core.files import write_atomically
from modelfleet.core.layout import Layout
from modelfleet.host.doctor import CHECKS, Finding, Report, examine
from modelfleet.wiring import Fleet
from modelfleet_worker.wire import desired
from modelfleet_worker.wire.desired import PoolSpec, VersionSpec
from people import ADMIN


def of(report: Report, check: str) -> list[Finding]:
    return [one for one in report.findings if one.check == check]


def worst(report: Report, check: str) -> Finding:
    return max(of(report, check), key=lambda one: ("ok", "warn", "fail").index(one.status))


@pytest.fixture
def home(fleet: Fleet) -> Layout:
    """A home that was started once and stands still."""
    fleet.identity.bootstrap(fleet.layout)
    fleet.layout.home.chmod(0o755)
    fleet.layout.fleet_database.chmod(0o600)
    return fleet.layout


def test_a_home_that_is_not_there_is_left_alone(tmp_path: Path) -> None:
    report = examine(tmp_path / "none")
    assert not report.ok
    assert worst(report, "home").status == "fail"
    assert not (tmp_path / "none").exists()
    assert {one.check for one in report.findings} == set(CHECKS) - {"probe"}


def test_all_but_well_has_a_remedy(home: Layout) -> None:
    for one in examine(home.home, probe=True).findings:
        assert one.says, one
        assert "it can't be examined" not in one.says, one
        assert (one.status == "ok") == (not one.remedy), one


def test_a_stopped_home_is_whole(home: Layout) -> None:
    before = {path: path.stat().st_mtime_ns for path in home.home.rglob("*") if path.is_file()}
    report = examine(home.home, deep=True)
    assert [one.check for one in report.findings if one.status == "fail"] == ["agent"]
    for check in ("database", "schema", "audit", "keys", "blobs", "settings", "home"):
        assert of(report, check)[0].status == "ok", of(report, check)
    after = {path: path.stat().st_mtime_ns for path in before}
    assert {
        p for p in before if before[p] != after[p] and not p.name.endswith(("-shm", "-wal"))
    } == set()


def test_settings(home: Layout) -> None:
    home.settings_file.write_text("[serving]\nreplica = 3\n")
    found = worst(examine(home.home), "settings")
    assert found.status == "fail"
    assert "replica" in found.says
    home.settings_file.write_text("port = [\n")
    assert worst(examine(home.home), "settings").status == "fail"
    home.settings_file.write_text('[serving]\ntls_cert = "c.pem"\n')
    assert "tls_key" in worst(examine(home.home), "settings").says


@pytest.mark.parametrize("what", ["admin_key", "fleet_database", "signing_key", "home"])
def test_what_others_may_read_or_write(home: Layout, what: str) -> None:
    path: Path = getattr(home, what)
    path.chmod(0o777 if what == "home" else 0o644)
    found = worst(examine(home.home), "keys" if what == "signing_key" else "home")
    assert found.status == "fail"
    assert "chmod" in found.remedy


def test_keys_that_do_not_fit(home: Layout, tmp_path: Path) -> None:
    from modelfleet.core.keys import SigningKey

    other = Layout(tmp_path / "other")
    SigningKey(other)
    held = home.signing_key.read_bytes()
    home.signing_key.write_bytes(other.signing_key.read_bytes())
    assert "another key" in worst(examine(home.home), "keys").says
    home.signing_key.write_bytes(b"rubbish")
    assert worst(examine(home.home), "keys").status == "fail"
    home.signing_key.unlink()
    assert "missing" in worst(examine(home.home), "keys").says
    home.signing_key.write_bytes(held)


def test_a_damaged_database(home: Layout, fleet: Fleet) -> None:
    fleet.database.close()
    for extra in ("-wal", "-shm"):
        Path(f"{home.fleet_database}{extra}").unlink(missing_ok=True)
    content = bytearray(home.fleet_database.read_bytes())
    content[4096:12288] = os.urandom(8192)
    home.fleet_database.write_bytes(content)
    report = examine(home.home)
    assert worst(report, "database").status == "fail"
    home.fleet_database.write_bytes(b"this is no database" * 1000)
    report = examine(home.home)
    assert worst(report, "database").status == "fail"
    assert worst(report, "segments").status == "ok"  # the others were heard


def change(layout: Layout, statement: str, *values: object) -> None:
    with sqlite3.connect(layout.fleet_database) as connection:
        connection.execute(statement, values)
    connection.close()


def test_schema(home: Layout) -> None:
    change(home, "UPDATE alembic_version SET version_num = '0001'")
    assert worst(examine(home.home), "schema").status == "warn"
    change(home, "UPDATE alembic_version SET version_num = '9999'")
    assert "9999" in worst(examine(home.home), "schema").says


def test_a_changed_audit_event(home: Layout) -> None:
    change(home, "UPDATE audit_event SET principal = 'somebody else' WHERE sequence = 1")
    found = worst(examine(home.home), "audit")
    assert (found.status, "event 1" in found.says) == ("fail", True)


def test_keys_that_expire(home: Layout, fleet: Fleet) -> None:
    fleet.identity.create_principal(ADMIN, "webshop", "service")
    now = int(time.time() * 1e6)
    change(home, "UPDATE key SET expires_at = ?", now + 3 * 86400 * 10**6)
    assert "within 14 days" in worst(examine(home.home), "access-keys").says
    change(home, "UPDATE key SET expires_at = ?", now - 1)
    assert "have expired" in worst(examine(home.home), "access-keys").says
    change(home, "UPDATE key SET revoked_at = ?", now)
    assert worst(examine(home.home), "access-keys").status == "ok"


def test_stuck_jobs(home: Layout) -> None:
    at = int((time.time() - 7200) * 1e6)
    values = "'j', 'prepare/x', 'prepare', '{}', 'running', 1, '', ?, NULL, NULL"
    change(home, f"INSERT INTO job VALUES ({values})", at)
    found = worst(examine(home.home), "jobs")
    assert found.status == "warn"
    assert "2 h" in found.says


def test_blobs_of_live_versions(home: Layout, fleet: Fleet, registrar: Any) -> None:
    from modelfleet.serving.endpoints import Route

    registrar.model()
    made = registrar.ready()
    place = fleet.endpoints.create(ADMIN, "churn", "churn")
    with fleet.database.begin() as connection:
        fleet.endpoints.set_routes(
            connection, place.id, [Route(made.id, 10_000, 0)], stable_version_id=made.id
        )
    assert "2 files of 1 live bundles" in worst(examine(home.home), "blobs").says
    entry = fleet.registry.entries(made.bundle_digest)[0]
    path = fleet.blobs.path(entry.sha256)
    content = path.read_bytes()
    path.write_bytes(b"x" * len(content))
    assert worst(examine(home.home), "blobs").status == "ok"  # nobody read it
    assert "other content" in worst(examine(home.home, deep=True), "blobs").says
    path.write_bytes(content + b"x")
    assert "bytes instead of" in worst(examine(home.home), "blobs").says
    path.unlink()
    assert "is missing" in worst(examine(home.home), "blobs").says


def test_pools_with_a_lost_interpreter_and_a_version_in_quarantine(home: Layout) -> None:
    version = VersionSpec(1, "churn", "1.0.0", 1, "d" * 64, "/none", quarantined="it crashed")
    spec = PoolSpec("p", 1, str(home.environments / "gone/bin/python"), versions=(version,))
    desired.dump(spec, home.pool("p"))
    report = examine(home.home)
    assert "is missing" in worst(report, "environments").says
    assert worst(report, "versions").status == "fail"
    assert "quarantine release churn" in worst(report, "versions").remedy


def test_a_port_that_somebody_else_holds(home: Layout) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        home.settings_file.write_text(f"port = {port}\ngateway_port = 0\n")
        found = worst(examine(home.home), "ports")
    assert found.status == "fail"
    assert str(port) in found.says
    assert worst(examine(home.home), "ports").status == "ok"


def test_a_record_that_can_not_be_read(home: Layout) -> None:
    write_atomically(home.run / "processes" / "gateway.json", b"{")
    assert worst(examine(home.home), "records").status == "warn"


def test_certificates_that_end(home: Layout) -> None:
    from modelfleet.serving.authority import GATEWAY, Authority
    from modelfleet.serving.gateway import tls

    certificate, key = Authority(home).issue(GATEWAY, days=1)
    path = tls.file_of(home.gateway, tls.CLIENT)
    write_atomically(path, json.dumps(tls.pair(tls.CLIENT, certificate, key)).encode(), 0o600)
    assert worst(examine(home.home), "certificates").status == "warn"
    (home.home / "c.pem").write_bytes(certificate)
    home.settings_file.write_text('[serving]\ntls_cert = "c.pem"\ntls_key = "none.key"\n')
    assert "none.key" in worst(examine(home.home), "certificates").says


def test_a_clock_that_was_set_back(home: Layout) -> None:
    write_atomically(home.ports, b"{}")
    later = time.time() + 3600
    os.utime(home.ports, (later, later))
    assert worst(examine(home.home), "clock").status == "fail"


def test_a_check_that_breaks_is_a_finding(home: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    from modelfleet.host.doctor import checks as module

    def broken(_: object) -> Any:
        raise RuntimeError("oh")

    monkeypatch.setattr(module, "CHECKS", {"broken": broken, "python": CHECKS["python"]})
    report = examine(home.home)
    assert [one.status for one in report.findings] == ["fail", "ok"]
    assert "oh" in report.findings[0].says
