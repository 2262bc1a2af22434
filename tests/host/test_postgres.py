"""The doctor and the support bundle of a home whose database is a server."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from modelfleet.core.settings import Settings
from modelfleet.host.doctor import Report, examine
from modelfleet.host.support import collect
from modelfleet.wiring import Fleet
from people import ADMIN

WORD = "zq7w"
"""a password too short to look like a secret"""


@pytest.fixture
def database_kind() -> str:
    return "postgres"


@pytest.fixture
def home(fleet: Fleet, fleet_settings: Settings) -> Path:
    fleet.identity.bootstrap(fleet.layout)
    fleet.registry.create_model(ADMIN, "churn", owner_team="growth")
    url = fleet_settings.database.url.replace("fleet@", f"fleet:{WORD}@")
    fleet.layout.settings_file.write_text(f'[database]\nurl = "{url}"\n')
    fleet.layout.logs.mkdir(parents=True)
    said = json.dumps({"event": "reconciler", "error": f"OperationalError: {url}"})
    (fleet.layout.logs / "control-plane.log").write_text(f"{said}\n")
    return fleet.layout.home


def said(report: Report, check: str) -> list[str]:
    return [f"{one.status}: {one.says}" for one in report.findings if one.check == check]


def test_the_doctor_looks_at_the_server(home: Path) -> None:
    report = examine(home)
    assert said(report, "database")[0].startswith("ok: PostgreSQL at")
    assert said(report, "schema")[0].startswith("ok: the database has schema")
    assert said(report, "audit")[0].startswith("ok: all")
    assert said(report, "access-keys") == ["ok: no key has expired or will within 14 days"]
    assert said(report, "jobs") == ["ok: 0 jobs wait or run, none for long"]
    assert not any(WORD in one.says for one in report.findings)


def test_a_password_that_others_may_read_is_told(home: Path) -> None:
    (home / "settings.toml").chmod(0o644)
    assert [one for one in said(examine(home), "home") if "settings.toml" in one]
    (home / "settings.toml").chmod(0o600)
    assert not [one for one in said(examine(home), "home") if "settings.toml" in one]


def test_a_server_that_is_gone_is_told(home: Path) -> None:
    (home / "settings.toml").write_text(
        f'[database]\nurl = "postgresql://u:{WORD}@127.0.0.1:1/n"\n'
    )
    report = examine(home)
    assert said(report, "database")[0].startswith("fail: The database can't be reached")
    assert not any(WORD in one.says for one in report.findings)


@pytest.mark.parametrize("reachable", [True, False])
def test_no_password_is_in_the_support_bundle(
    home: Path, tmp_path: Path, reachable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELFLEET_DATABASE__PASSWORD", "another-word")
    if not reachable:
        text = (home / "settings.toml").read_text().replace("?host=", "?host=/nowhere")
        (home / "settings.toml").write_text(text)
    collect(home, tmp_path / "bundle.tar.gz")
    with tarfile.open(tmp_path / "bundle.tar.gz") as archive:
        parts = {
            one.name.split("/", 1)[-1]: archive.extractfile(one).read().decode()  # type: ignore[union-attr]
            for one in archive.getmembers()
            if one.isfile()
        }
    assert not any(WORD in text or "another-word" in text for text in parts.values())
    found = json.loads(parts["databases.json"])["PostgreSQL"]
    if reachable:
        assert found["rows"]["model"] == 1
        assert found["version"].startswith("18.")
    else:
        assert "reached" in found["trouble"]
