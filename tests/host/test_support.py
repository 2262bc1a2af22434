"""Secrets are planted in all places where one could lie, and looked for in the archive."""

from __future__ import annotations

import base64
import json
import sqlite3
import tarfile
import urllib.parse
from pathlib import Path

import pytest

from modelfleet.core.errors import Conflict, InvalidInput
from modelfleet.core.keys import SigningKey
from modelfleet.core.layout import Layout
from modelfleet.host.support import Redactor, collect
from modelfleet.host.support.redact import quiet, without_literals
from modelfleet.serving.authority import GATEWAY, Authority
from modelfleet.serving.gateway import EndpointRoutes, GatewayConfig, GatewayFiles, Target
from modelfleet.serving.gateway.certificates import Certificates
from modelfleet.wiring import Fleet
from people import ADMIN

VALUE = "Jadwiga-Planted-7261"
NUMBER = "48151.62342"
JWT = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJwbGFudGVkIn0.c2lnbmF0dXJlcGxhbnRlZA"
PASSWORD = "hunter2-planted-password"
LINK = "kZ3planted-login-link-secret-0123456789"
MAIL = "jadwiga.planted@example.org"
PLANTED = [VALUE, NUMBER, JWT, PASSWORD, LINK, MAIL]
LINES = [
    json.dumps({"event": "asked", "headers": {"authorization": f"Bearer {JWT}"}, "level": "info"}),
    f"curl -H 'Authorization: Bearer {JWT}' http://127.0.0.1",
    f"Bearer {JWT}",
    f"GET /login/{LINK} 303",
    f"password={PASSWORD} next",
    json.dumps({"event": "x", "config": json.dumps({"db_password": PASSWORD})}),
    f"postgresql://me:{PASSWORD}@db.internal/fleet",
    json.dumps({"event": "job failed", "error": f"ValueError: could not convert {VALUE}"}),
    json.dumps({"event": "reconciler", "error": f"ValueError: could not convert '{VALUE}'"}),
    f"ValueError: no number: '{VALUE}' in [{NUMBER}, 2.0]",
    f"mail to {MAIL}",
]
MODEL_LINES = [
    f"predicting for {VALUE} {NUMBER}",
    json.dumps({"event": VALUE, "row": [NUMBER]}),
    json.dumps(
        {
            "time": 1.0,
            "level": "error",
            "pid": 7,
            "event": "the model failed",
            "error": f"KeyError: {VALUE}",
            "traceback": f'  File "m.py", line 3\n    raise KeyError("{VALUE}")\nKeyError: {VALUE}',
        }
    ),
]


def all_bytes(archive: Path) -> bytes:
    with tarfile.open(archive) as opened:
        members = opened.getmembers()
        content = [f.read() for m in members if (f := opened.extractfile(m)) is not None]
        return b"\n".join([*(m.name.encode() for m in members), *content])


def forms(secret: str) -> list[bytes]:
    """A secret as it could stand there."""
    raw = secret.encode()
    return [
        raw,
        base64.b64encode(raw).rstrip(b"="),
        raw.hex().encode(),
        urllib.parse.quote(secret, safe="").encode(),
        json.dumps(secret)[1:-1].encode(),
    ]


def lines_of(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if len(line) > 12 and "---" not in line]


@pytest.fixture
def home(fleet: Fleet) -> Layout:
    layout = fleet.layout
    fleet.identity.bootstrap(layout)
    SigningKey(layout)
    fleet.identity.create_principal(ADMIN, MAIL, "person")
    certificate, key = Authority(layout).issue(GATEWAY)
    (layout.home / "tls.pem").write_bytes(certificate)
    (layout.home / "tls.key").write_bytes(key)
    layout.pipelines_key.write_text(JWT + "planted-pipelines-key")
    layout.settings_file.write_text('[serving]\ntls_cert = "tls.pem"\ntls_key = "tls.key"\n')
    layout.gateway.mkdir(parents=True)
    Certificates(layout, (layout.home / "tls.pem", layout.home / "tls.key")).publish_client()
    pair = (layout.home / "tls.pem", layout.home / "tls.key")
    gateway = GatewayFiles(layout, tls=pair)
    gateway.bootstrap(
        host="127.0.0.1", port=1, control_plane=("127.0.0.1", 2), jwks=layout.jwks.read_text()
    )
    gateway.write(GatewayConfig(1, (EndpointRoutes("m1", (Target(1, "1.0.0", 1, "p", 10_000),)),)))
    layout.logs.mkdir()
    for name in ("control-plane", "gateway", "agent", "collector"):
        layout.logs.joinpath(f"{name}.log").write_text("started well\n" + "\n".join(LINES) + "\n")
    layout.logs.joinpath("control-plane.log.1").write_text("\n".join(LINES))
    layout.logs.joinpath("control-plane.log").open("a").write(
        layout.signing_key.read_text() + f"key: {layout.admin_key.read_text()}\n"
    )
    for name in ("worker-py-0", "pipelines-0"):
        layout.logs.joinpath(f"{name}.log").write_text("\n".join(MODEL_LINES + LINES))
    replica = {"replica": 0, "pid": 1, "state": "backing-off", "incarnation": 1, "restarts": 9}
    replica |= {"last_exit": f"exit code 1: {VALUE}", "error": f"KeyError: {VALUE}"}
    process = {"pid": None, "state": "ready", "restarts": 4, "last_exit": f"exit code 1: {VALUE}"}
    observed = {"pools": {"py": {"replicas": [replica]}}, "processes": {"grpc": process}}
    layout.run.mkdir(exist_ok=True)
    layout.observed.write_text(json.dumps(observed))
    for folder in (layout.segments, layout.predictions, layout.outcome_inbox):
        folder.mkdir(parents=True)
        (folder / "planted.seg").write_text(VALUE + NUMBER)
    with sqlite3.connect(layout.fleet_database) as connection:
        connection.execute("UPDATE audit_event SET details = ?", (json.dumps({"x": VALUE}),))
    connection.close()
    with sqlite3.connect(layout.evidence_database) as connection:
        connection.execute("CREATE TABLE recent (predictions BLOB)")
        connection.execute("INSERT INTO recent VALUES (?)", (VALUE.encode(),))
    connection.close()
    return layout


def test_no_planted_secret_is_in_the_archive(home: Layout, tmp_path: Path) -> None:
    made = collect(home.home, tmp_path / "s.tar.gz")
    found = all_bytes(made.path)
    own = [home.admin_key.read_text().strip(), (home.keys / "gateway.key").read_text()]
    own += [home.pipelines_key.read_text(), *lines_of(home.signing_key)]
    own += [*lines_of(home.authority_key), *lines_of(home.home / "tls.key")]
    sds = json.loads((home.gateway / "sds-client.json").read_text())["resources"][0]
    held = sds["tls_certificate"]["private_key"]["inline_string"]
    own += [line for line in held.splitlines() if "---" not in line]
    assert len(own) > 10
    for secret in [*PLANTED, *own]:
        for form in forms(secret):
            assert form not in found, secret
    for piece in JWT.split("."):
        assert piece.encode() not in found
    assert b"PRIVATE KEY" not in found


def test_what_helps_is_in_it(home: Layout, tmp_path: Path) -> None:
    made = collect(home.home, tmp_path / "s.tar.gz")
    assert made.path.stat().st_mode & 0o077 == 0
    with tarfile.open(made.path) as archive:
        names = {name.removeprefix("modelfleet-support/") for name in archive.getnames()}

        def read(name: str) -> str:
            stream = archive.extractfile(f"modelfleet-support/{name}")
            assert stream is not None
            return stream.read().decode()

        doctor, databases = json.loads(read("doctor.json")), json.loads(read("databases.json"))
        log, worker = read("logs/control-plane.log"), read("logs/worker-py-0.log")
        settings, versions = json.loads(read("settings.json")), json.loads(read("versions.json"))
        routes, status = read("gateway/rds.json"), json.loads(read("status.json"))
        audit = json.loads(read("audit.json"))
    assert {"README.txt", "pools.json", "logs/control-plane.log.1"} <= names
    assert any(one["status"] == "fail" for one in doctor["findings"])
    assert databases["fleet.db"]["rows"]["key"] == 1
    assert any("CREATE TABLE" in one for one in databases["fleet.db"]["schema"])
    assert "started well" in log
    assert "job failed" in log
    assert "the model failed" in worker
    assert 'File \\"m.py\\", line 3' in worker
    assert "KeyError" in worker
    assert settings["serving"]["replicas"] == 2
    assert "msgspec" in versions["packages"]
    assert "m1" in routes
    assert status["observed"]["processes"]["grpc"]["last_exit"].startswith("exit code 1")
    assert audit
    assert "details" not in audit[0]
    assert "omitted.txt" in names  # the evidence database of this home is none
    assert any(one.startswith("evidence") for one in made.omitted)


def test_what_is_asked_for_wrongly(home: Layout, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"tar\.gz"):
        collect(home.home, tmp_path / "s.zip")
    with pytest.raises(InvalidInput, match="no home"):
        collect(tmp_path / "none", tmp_path / "s.tar.gz")
    (tmp_path / "s.tar.gz").write_text("mine")
    with pytest.raises(Conflict):
        collect(home.home, tmp_path / "s.tar.gz")
    assert (tmp_path / "s.tar.gz").read_text() == "mine"
    assert [path.name for path in tmp_path.glob(".s.tar.gz.*")] == []


def test_only_the_last_lines(home: Layout, tmp_path: Path) -> None:
    log = home.logs / "grpc.log"
    log.write_text("".join(f"line {number}\n" for number in range(1000)))
    found = all_bytes(collect(home.home, tmp_path / "s.tar.gz", lines=10).path).decode()
    assert "line 990" in found
    assert "line 989" not in found


def test_redaction_leaves_the_rest(home: Layout) -> None:
    from modelfleet.core.settings import load_settings

    redactor = Redactor(load_settings(home.home, environment={}))
    for text in (
        "churn 1.2.0 in 12.5 ms, sha256 " + "a" * 64,
        '{"tokens": 3, "model": "churn"}',
        "The key of principal 0190a5b2 is not valid.",
    ):
        assert redactor.clean(text).replace("[removed]", "3") == text
    assert quiet("exit code 3: it was Jadwiga") == "exit code 3: ..."
    assert quiet("killed by SIGKILL") == "killed by SIGKILL"
    assert "Jadwiga" not in without_literals("no 'Jadwiga' and [1.0, 2] and 3.14")
