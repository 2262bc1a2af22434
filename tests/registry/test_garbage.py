from __future__ import annotations

import os
import time
from dataclasses import replace

import pytest

from modelfleet.core.authorization import Role
from modelfleet.core.blobs import FolderBlobStore
from modelfleet.core.errors import Conflict, NotAllowed
from modelfleet.registry.garbage import GarbageService
from modelfleet.wiring import Fleet
from people import ADMIN, principal
from registrar import Registrar


@pytest.fixture
def blobs(fleet: Fleet) -> FolderBlobStore:
    return FolderBlobStore(fleet.layout.blobs)


@pytest.fixture
def garbage(fleet: Fleet, blobs: FolderBlobStore) -> GarbageService:
    return GarbageService(fleet.database, blobs)


def age(blobs: FolderBlobStore, seconds: float) -> None:
    """As if everything had been written so long ago."""
    for sha256, _ in blobs.every():
        os.utime(blobs.path(sha256), (time.time() - seconds,) * 2)


def test_what_is_named_stays(
    fleet: Fleet, registrar: Registrar, blobs: FolderBlobStore, garbage: GarbageService
) -> None:
    registrar.model()
    registrar.ready()
    before = set(blobs.every())
    age(blobs, 3600)
    found = garbage.collect(ADMIN, grace_seconds=0)
    found = garbage.collect(ADMIN, grace_seconds=0)
    assert (found.removed, found.waiting, found.live) == (0, 0, len(before))
    assert set(blobs.every()) == before


def test_what_nothing_names_goes_after_the_grace_period(
    fleet: Fleet, registrar: Registrar, blobs: FolderBlobStore, garbage: GarbageService
) -> None:
    registrar.model()
    made = registrar.version()
    orphan, _ = blobs.put([b"nobody wants this"])
    fleet.registry.delete_version(ADMIN, "churn", made.version)
    dead = {sha256 for sha256, _ in blobs.every()}
    assert len(dead) >= 3
    found = garbage.collect(ADMIN, grace_seconds=10)  # marks
    assert (found.removed, found.waiting) == (0, len(dead))
    age(blobs, 3600)
    found = garbage.collect(ADMIN, grace_seconds=10)  # marked only just now
    assert found.removed == 0
    dry = garbage.collect(ADMIN, dry_run=True, grace_seconds=0)
    assert (dry.removed, dry.dry_run) == (len(dead), True)
    assert blobs.has(orphan)
    found = garbage.collect(ADMIN, grace_seconds=0)
    assert (found.removed, found.bundles) == (len(dead), 1)
    assert list(blobs.every()) == []


def test_what_somebody_brings_again_is_young(
    fleet: Fleet, blobs: FolderBlobStore, garbage: GarbageService
) -> None:
    sha256, _ = blobs.put([b"x"])
    garbage.collect(ADMIN, grace_seconds=0)
    age(blobs, 3600)
    blobs.touch(sha256)  # as the API does when a client asks whether it is here
    assert garbage.collect(ADMIN, grace_seconds=60).removed == 0


def test_what_is_used_again_is_unmarked(
    fleet: Fleet, registrar: Registrar, blobs: FolderBlobStore, garbage: GarbageService
) -> None:
    registrar.model()
    new = registrar.new()
    assert garbage.collect(ADMIN, grace_seconds=100).waiting > 0
    fleet.registry.register(ADMIN, "churn", new)
    age(blobs, 3600)
    assert garbage.collect(ADMIN, grace_seconds=0).removed == 0
    assert garbage.collect(ADMIN, grace_seconds=0).waiting == 0


def test_nothing_goes_while_a_backup_runs(
    fleet: Fleet, blobs: FolderBlobStore, garbage: GarbageService
) -> None:
    blobs.put([b"x"])
    with blobs.kept(), pytest.raises(Conflict, match="backup"):
        garbage.collect(ADMIN, grace_seconds=0)
    assert len(list(blobs.every())) == 1
    assert garbage.collect(ADMIN, grace_seconds=0).removed == 1


def test_uploads_that_nobody_went_on_with_are_forgotten(
    blobs: FolderBlobStore, garbage: GarbageService
) -> None:
    blobs.append("0" * 64, 0, 100, [b"begun"])
    garbage.collect(ADMIN, grace_seconds=60)
    assert blobs.held("0" * 64) == 5
    time.sleep(0.05)
    garbage.collect(ADMIN, grace_seconds=0.01)
    assert blobs.held("0" * 64) == 0


def test_only_who_manages_access_collects(garbage: GarbageService) -> None:
    with pytest.raises(NotAllowed):
        garbage.collect(principal(Role.DEPLOYER))


def test_the_code_of_a_version_stays(
    fleet: Fleet, registrar: Registrar, blobs: FolderBlobStore, garbage: GarbageService
) -> None:
    registrar.model()
    sha256, size = blobs.put([b"import this\n"])
    code = {"files": [{"path": "train.py", "sha256": sha256, "size": size}]}
    made = fleet.registry.register(ADMIN, "churn", replace(registrar.new(), code=code))
    age(blobs, 3600)
    for _ in range(2):
        assert garbage.collect(ADMIN, grace_seconds=0).removed == 0
    fleet.registry.delete_version(ADMIN, "churn", made.version)
    for _ in range(2):
        garbage.collect(ADMIN, grace_seconds=0)
    assert not blobs.has(sha256)
