"""Backups of homes on either store, and what becomes of bad ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from modelfleet.backup import (
    Place,
    Seal,
    create,
    restore,
    seal_from_key_file,
    seal_from_passphrase,
    verify,
)
from modelfleet.core import audit
from modelfleet.core.blobs import FolderBlobStore
from modelfleet.core.database import Database, metadata
from modelfleet.core.errors import Conflict, FleetError, InvalidInput, NotFound
from modelfleet.core.migrate import downgrade_to, revisions
from modelfleet.core.settings import load_settings
from modelfleet.wiring import Fleet, build
from people import ADMIN
from postgres_server import Server
from registrar import Registrar

MakeSeal = Callable[[bytes], Seal]


def secret(salt: bytes) -> Seal:
    return seal_from_passphrase("correct horse", salt)


def rows_of(database: Database) -> dict[str, list[tuple[Any, ...]]]:
    """But for who lives, and for what a restore adds."""
    with database.read() as connection:
        return {
            table.name: sorted(
                (tuple(row) for row in connection.execute(sa.select(table))), key=repr
            )
            for table in metadata.sorted_tables
            if table.name not in ("member", "audit_event")
        }


def objects(place: Path) -> list[Path]:
    return sorted(path for path in (place / "objects").rglob("*") if path.is_file())


@pytest.fixture
def filled(fleet: Fleet, registrar: Registrar) -> Fleet:
    fleet.identity.bootstrap(fleet.layout)
    registrar.model("churn")
    registrar.ready("churn")
    registrar.version("churn")
    registrar.model("fraud", team="risk")
    gone = registrar.version("fraud")  # its number must never come back
    fleet.registry.delete_version(ADMIN, "fraud", str(gone.sequence))
    return fleet


@pytest.fixture
def other_url(server: Server) -> Iterator[str]:
    """An empty database."""
    with server.database() as name:
        yield server.address(name)


def opened(home: Path, url: str = "") -> Fleet:
    return build(load_settings(home, {"database": {"url": url}}, environment={}))


@pytest.mark.parametrize("target", ["sqlite", "postgres"])
@pytest.mark.parametrize("make_seal", [None, secret], ids=["plain", "sealed"])
def test_a_home_comes_back_on_either_store(
    filled: Fleet, tmp_path: Path, target: str, other_url: str, make_seal: MakeSeal | None
) -> None:
    place = Place(tmp_path / "backup", make_seal, create=True)
    made = create(filled.settings, place, keys=True)
    assert made.missing == ()
    assert made.new_objects > 4
    assert verify(Place(tmp_path / "backup", make_seal)).ok
    before = rows_of(filled.database)

    url = other_url if target == "postgres" else ""
    found = restore(place, tmp_path / "new", database_url=url)
    assert found.store == {"sqlite": "sqlite", "postgres": "postgresql"}[target]
    database = Database(
        sa.make_url(url).set(drivername="postgresql+psycopg") if url else tmp_path / "new/fleet.db"
    )
    assert rows_of(database) == before
    database.close()
    back = opened(tmp_path / "new", url)
    try:
        assert audit.first_broken(back.database) is None
        assert audit.events(back.database)[0].action == "restore-backup"
        versions = back.registry.list_versions(ADMIN, "churn")
        for version in versions:
            for entry in back.registry.entries(version.bundle_digest):
                assert back.blobs.path(entry.sha256).stat().st_size == entry.size
        key = (tmp_path / "new" / "admin.key").read_text().strip()
        assert back.identity.authenticate(key).name == "admin"
        assert (tmp_path / "new" / "keys").stat().st_mode & 0o777 == 0o700
        assert (tmp_path / "new" / "keys" / "signing.pem").stat().st_mode & 0o777 == 0o600
        number = max(version.index for version in versions)
        made_after = Registrar(back, 50).version("churn")
        assert made_after.index == number + 2  # one was deleted
    finally:
        back.converters.close()
        back.database.close()


def test_only_what_is_new_is_copied(filled: Fleet, registrar: Registrar, tmp_path: Path) -> None:
    place = Place(tmp_path / "backup", create=True)
    create(filled.settings, place)
    second = create(filled.settings, place)
    assert second.new_objects == 0
    registrar.version("churn", content=b"x" * 5000)
    third = create(filled.settings, place)
    assert third.new_objects == 2
    assert 5000 < third.new_bytes < 20_000
    assert len(place.snapshots()) == 3
    restore(place, tmp_path / "first", snapshot=place.snapshots()[0])
    database = Database(tmp_path / "first" / "fleet.db")
    assert len(rows_of(database)["model_version"]) == 2
    database.close()


def test_without_keys_there_are_none_and_new_ones_are_made(filled: Fleet, tmp_path: Path) -> None:
    place = Place(tmp_path / "backup", create=True)
    found = create(filled.settings, place)
    assert not found.keys
    pem = filled.layout.signing_key.read_bytes()
    assert not any(pem in path.read_bytes() for path in objects(tmp_path / "backup"))
    restored = restore(place, tmp_path / "new")
    assert not restored.keys
    back = opened(tmp_path / "new")
    assert back.identity.bootstrap(back.layout)
    assert back.layout.signing_key.read_bytes() != pem
    back.converters.close()
    back.database.close()


def test_nothing_readable_is_in_an_encrypted_one(filled: Fleet, tmp_path: Path) -> None:
    create(filled.settings, Place(tmp_path / "backup", secret, create=True))
    content = filled.layout.signing_key.read_bytes()
    names = {path.name for path in filled.layout.blobs.rglob("*") if len(path.name) == 64}
    for path in (tmp_path / "backup").rglob("*"):
        if path.is_file():
            stored = path.read_bytes()
            assert content not in stored
            assert b"churn" not in stored
            assert path.name not in names


def test_wrong_and_missing_secrets_are_told(filled: Fleet, tmp_path: Path) -> None:
    folder = tmp_path / "backup"
    create(filled.settings, Place(folder, secret, create=True))
    with pytest.raises(InvalidInput, match="is encrypted"):
        Place(folder)
    with pytest.raises(InvalidInput, match="another one"):
        Place(folder, lambda salt: seal_from_passphrase("another horse", salt))
    short = tmp_path / "short.key"
    short.write_bytes(b"x" * 31)
    with pytest.raises(InvalidInput, match="32 bytes"):
        Place(folder, lambda salt: seal_from_key_file(short, salt))
    with pytest.raises(InvalidInput, match="8 characters"):
        Place(folder, lambda salt: seal_from_passphrase("short", salt))
    plain = tmp_path / "plain"
    create(filled.settings, Place(plain, create=True))
    with pytest.raises(InvalidInput, match="not encrypted"):
        Place(plain, secret)
    with pytest.raises(NotFound):
        Place(tmp_path / "nothing")
    with pytest.raises(Conflict, match="no place of backups"):
        Place(filled.layout.keys, create=True)


@pytest.mark.parametrize("make_seal", [None, secret], ids=["plain", "sealed"])
@pytest.mark.parametrize("harm", ["flip", "cut", "remove", "swap"])
def test_harm_is_found_and_nothing_is_restored(
    filled: Fleet, registrar: Registrar, tmp_path: Path, make_seal: MakeSeal | None, harm: str
) -> None:
    registrar.version("churn", content=os.urandom(3 << 20))
    place = Place(tmp_path / "backup", make_seal, create=True)
    create(filled.settings, place)
    found = sorted(objects(tmp_path / "backup"), key=lambda path: path.stat().st_size)
    biggest, smallest = found[-1], found[0]
    content = biggest.read_bytes()
    if harm == "flip":
        biggest.write_bytes(content[:2_000_000] + b"\0\0\0\0" + content[2_000_004:])
    elif harm == "cut":  # at the end of a chunk
        biggest.write_bytes(content[: 20 + 2 * ((1 << 20) + 16) if make_seal else 2 << 20])
    elif harm == "remove":
        biggest.unlink()
    else:
        biggest.write_bytes(smallest.read_bytes())
    checked = verify(place)
    assert not checked.ok
    assert len(checked.bad) == 1
    with pytest.raises(InvalidInput):
        restore(place, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    assert not list(tmp_path.glob(".new*"))


@pytest.mark.parametrize("make_seal", [None, secret], ids=["plain", "sealed"])
def test_a_changed_snapshot_is_refused(
    filled: Fleet, tmp_path: Path, make_seal: MakeSeal | None
) -> None:
    place = Place(tmp_path / "backup", make_seal, create=True)
    create(filled.settings, place)
    (path,) = (tmp_path / "backup" / "snapshots").iterdir()
    content = path.read_bytes()
    path.write_bytes(content[:60] + bytes([content[60] ^ 1]) + content[61:])
    with pytest.raises(InvalidInput):
        restore(place, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_an_interrupted_backup_is_none_and_goes_on(
    filled: Fleet, registrar: Registrar, tmp_path: Path
) -> None:
    for _ in range(4):
        registrar.version("churn", content=os.urandom(100_000))
    place = Place(tmp_path / "backup", create=True)

    def die(_name: str, done: int, _total: int) -> None:
        if done > 250_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        create(filled.settings, place, report=die)
    with pytest.raises(NotFound, match="no finished backup"):
        restore(place, tmp_path / "new")
    before = len(objects(tmp_path / "backup"))
    assert before > 1
    (tmp_path / "backup" / "objects" / ".part-left").write_bytes(b"half")
    assert not list(filled.layout.home.glob(".backup-*"))
    done = create(filled.settings, place)
    assert done.missing == ()
    assert len(objects(tmp_path / "backup")) == before + done.new_objects
    assert done.new_objects < done.blobs
    assert not (tmp_path / "backup" / "objects" / ".part-left").exists()
    assert verify(place).ok


def test_one_that_is_killed_leaves_nothing_behind_for_long(
    filled: Fleet, registrar: Registrar, tmp_path: Path
) -> None:
    for _ in range(30):
        registrar.version("churn", content=os.urandom(1 << 20))
    home, place = filled.layout.home, tmp_path / "backup"
    url = filled.settings.database.url
    filled.layout.settings_file.write_text(f'[database]\nurl = "{url}"\n')
    argv = [sys.executable, "-m", "modelfleet.cli.main", "backup", str(place), "--home", str(home)]
    process = subprocess.Popen(argv, stderr=subprocess.PIPE)
    end = time.monotonic() + 60
    while len(objects(place)) < 5:
        assert process.poll() is None, process.stderr
        assert time.monotonic() < end
        time.sleep(0.001)
    process.kill()
    process.communicate(timeout=10)
    with pytest.raises(NotFound, match="no finished backup"):
        Place(place).manifest()
    there = len([one for one in objects(place) if not one.name.startswith(".")])
    done = subprocess.run([*argv, "--json"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["new_objects"] <= 35 - there + 2
    assert not list(home.glob(".backup-*"))
    assert not list((place / "objects").glob(".part-*"))
    assert verify(Place(place)).ok


@pytest.mark.parametrize("make_seal", [None, secret], ids=["plain", "sealed"])
def test_old_snapshots_are_pruned(
    filled: Fleet, registrar: Registrar, tmp_path: Path, make_seal: MakeSeal | None
) -> None:
    place = Place(tmp_path / "backup", make_seal, create=True)
    for number in range(3):
        registrar.version("churn", content=bytes([number]) * 9000)
        create(filled.settings, place)
    newest = place.snapshots()[1:]
    before = len(objects(tmp_path / "backup"))
    found = place.prune(2)
    assert place.snapshots() == newest
    assert (len(found.snapshots), found.objects) == (1, 1)  # the rows of then
    assert len(objects(tmp_path / "backup")) == before - 1
    for one in newest:
        assert verify(place, one).ok
    assert place.prune(2).objects == 0
    with pytest.raises(InvalidInput):
        place.prune(0)


def test_a_used_home_or_database_is_left_alone(
    filled: Fleet, tmp_path: Path, other_url: str
) -> None:
    place = Place(tmp_path / "backup", create=True)
    create(filled.settings, place)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").write_text("mine")
    with pytest.raises(Conflict, match="not empty"):
        restore(place, tmp_path / "used")
    restore(place, tmp_path / "one", database_url=other_url)
    with pytest.raises(Conflict, match="not empty"):
        restore(place, tmp_path / "two", database_url=other_url)
    assert not (tmp_path / "two").exists()
    assert not list(tmp_path.glob(".two*"))


def test_nothing_is_deleted_and_nobody_else_writes_meanwhile(filled: Fleet, tmp_path: Path) -> None:
    place = Place(tmp_path / "backup", create=True)
    begun, go_on = threading.Event(), threading.Event()

    def wait(*_: object) -> None:
        begun.set()
        go_on.wait(20)

    thread = threading.Thread(target=create, args=(filled.settings, place), kwargs={"report": wait})
    thread.start()
    try:
        assert begun.wait(20)
        blobs = FolderBlobStore(filled.layout.blobs)
        name = next(p.name for p in filled.layout.blobs.rglob("*") if len(p.name) == 64)
        with pytest.raises(Conflict, match="backup is being made"):
            blobs.delete(name)
        with pytest.raises(Conflict, match="Another backup"):
            create(filled.settings, place)
    finally:
        go_on.set()
        thread.join(20)
    blobs.delete(name)
    assert not blobs.has(name)


def test_a_blob_that_is_gone_or_damaged_is_told(filled: Fleet, tmp_path: Path) -> None:
    version = filled.registry.list_versions(ADMIN, "churn")[0]
    first, second = filled.registry.entries(version.bundle_digest)
    filled.blobs.delete(first.sha256)
    filled.blobs.path(second.sha256).write_bytes(b"other")
    found = create(filled.settings, Place(tmp_path / "backup", create=True))
    assert sorted(found.missing) == sorted({first.sha256, second.sha256})


def test_the_database_of_settings_is_replaced(filled: Fleet, tmp_path: Path) -> None:
    text = '# mine\nport = 0\n[database]\nurl = "postgresql://u@h/db"\n[serving]\nreplicas = 3\n'
    filled.layout.settings_file.write_text(text)
    place = Place(tmp_path / "backup", create=True)
    assert create(filled.settings, place).settings
    restore(place, tmp_path / "new")
    found = load_settings(tmp_path / "new", environment={})
    assert (found.database.url, found.serving.replicas, found.port) == ("", 3, 0)
    assert "# mine" in (tmp_path / "new" / "settings.toml").read_text()


def test_a_password_stays_out_of_a_plain_backup(filled: Fleet, tmp_path: Path) -> None:
    text = '[database]\nurl = "postgresql://u:hidden-word@h/db"\n'
    filled.layout.settings_file.write_text(text)
    found = create(filled.settings, Place(tmp_path / "backup", create=True))
    assert not found.settings
    assert not any(b"hidden-word" in path.read_bytes() for path in objects(tmp_path / "backup"))
    assert create(filled.settings, Place(tmp_path / "sealed", secret, create=True)).settings


def test_a_backup_of_an_earlier_schema_is_upgraded(filled: Fleet, tmp_path: Path) -> None:
    with filled.database.begin() as connection:
        downgrade_to(connection, revisions()[-2])
    place = Place(tmp_path / "backup", create=True)
    create(filled.settings, place)
    restore(place, tmp_path / "new")
    back = opened(tmp_path / "new")
    assert {one.name for one in back.registry.list_models(ADMIN)} == {"churn", "fraud"}
    back.converters.close()
    back.database.close()


def test_what_is_never_started_has_nothing_to_keep(tmp_path: Path) -> None:
    settings = load_settings(tmp_path / "home", environment={})
    place = Place(tmp_path / "backup", create=True)
    with pytest.raises(NotFound, match="never started"):
        create(settings, place)


def test_a_newer_format_is_refused(filled: Fleet, tmp_path: Path) -> None:
    place = Place(tmp_path / "backup", create=True)
    create(filled.settings, place)
    about = tmp_path / "backup" / "place.json"
    about.write_text(about.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(InvalidInput, match="format 2"):
        Place(tmp_path / "backup")


def test_sealing_knows_every_size(tmp_path: Path) -> None:
    import io

    from modelfleet.backup.sealing import CHUNK, sealed_size

    seal = secret(b"s" * 16)
    for size in (0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK):
        content = os.urandom(size)
        sealed = b"".join(seal.seal([content[:7], content[7:]], "name"))
        assert len(sealed) == sealed_size(size)
        assert b"".join(seal.open(io.BytesIO(sealed), "name")) == content
        for bad, name in ((sealed, "other"), (sealed[:-1], "name"), (sealed + b"x", "name")):
            with pytest.raises(FleetError):
                b"".join(seal.open(io.BytesIO(bad), name))
        if size > CHUNK:  # whole chunks are missing
            with pytest.raises(FleetError):
                b"".join(seal.open(io.BytesIO(sealed[: 20 + CHUNK + 16]), "name"))
