"""Backups as people type them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from modelfleet.cli.main import cli
from modelfleet.core.errors import Conflict, InvalidInput, NotFound
from modelfleet.wiring import Fleet

PASSPHRASE = "MODELFLEET_BACKUP_PASSPHRASE"


@pytest.fixture
def database_kind() -> str:
    return "sqlite"


@pytest.fixture
def home(fleet: Fleet) -> Path:
    fleet.identity.bootstrap(fleet.layout)
    return fleet.layout.home


def run(*arguments: object, **variables: str) -> Result:
    return CliRunner().invoke(cli, [str(one) for one in arguments], env=variables)


def test_a_destination_alone_makes_a_backup(home: Path, tmp_path: Path) -> None:
    place = tmp_path / "b"
    found = run("backup", place, "--home", home)
    assert found.exit_code == 0, found.output
    assert "Snapshot" in found.stdout
    assert "Without keys" in found.stderr
    again = run("backup", "--json", place, "--home", home)
    assert json.loads(again.stdout)["new_objects"] == 0
    listed = json.loads(run("backup", "list", place, "--json").stdout)
    assert len(listed) == 2
    assert listed[0]["snapshot"] > listed[1]["snapshot"]
    assert "is whole" in run("backup", "verify", place).stdout
    assert "Removed 1 snapshots" in run("backup", "prune", place, "--keep", 1).stdout


def test_a_passphrase_is_asked_for_twice_or_taken_from_the_environment(
    home: Path, tmp_path: Path
) -> None:
    place = tmp_path / "b"
    asked = CliRunner().invoke(
        cli,
        ["backup", str(place), "--home", str(home), "--encrypt"],
        input="correct horse\ncorrect horse\n",
        env={PASSPHRASE: None},
    )
    assert asked.exit_code == 0, asked.output
    assert "Without keys" not in asked.stderr
    assert isinstance(run("backup", "verify", place).exception, InvalidInput)
    assert run("backup", "verify", place, **{PASSPHRASE: "correct horse"}).exit_code == 0
    wrong = run("backup", "verify", place, **{PASSPHRASE: "another horse"})
    assert isinstance(wrong.exception, InvalidInput)


def test_damage_is_exit_code_one(home: Path, tmp_path: Path) -> None:
    place = tmp_path / "b"
    run("backup", place, "--home", home)
    for path in (place / "objects").rglob("*"):
        if path.is_file():
            path.write_bytes(b"x" * path.stat().st_size)
    found = run("backup", "verify", place)
    assert found.exit_code == 1
    assert "not whole" in found.stdout
    assert json.loads(run("backup", "verify", place, "--json").stdout)["ok"] is False


def test_mistakes(home: Path, tmp_path: Path) -> None:
    assert run("backup", home / "inside", "--home", home).exit_code == 2
    assert isinstance(run("backup", "verify", tmp_path / "none").exception, NotFound)
    run("backup", tmp_path / "b", "--home", home)
    used = run("restore", tmp_path / "b", "--home", home)
    assert isinstance(used.exception, Conflict)
    unknown = run("restore", tmp_path / "b", "--home", tmp_path / "new", "--snapshot", "x")
    assert isinstance(unknown.exception, NotFound)
    assert not (tmp_path / "new").exists()
    told = run("restore", tmp_path / "b", "--home", tmp_path / "new")
    assert told.exit_code == 0, told.output
    assert "new keys" in told.stderr
