from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from modelfleet_worker.wire import bundle


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    files = tmp_path / "b" / "files"
    (files / "deep").mkdir(parents=True)
    (files / "model.txt").write_bytes(b"weights")
    (files / "deep" / "a.json").write_text('{"ä": 1}')
    (files / "run.sh").write_text("#!/bin/sh\n")
    os.chmod(files / "run.sh", 0o755)
    return tmp_path / "b"


def test_manifest_is_canonical_and_names_every_file(folder: Path) -> None:
    digest = bundle.write_manifest(folder)
    content = (folder / "manifest.json").read_bytes()
    assert hashlib.sha256(content).hexdigest() == digest
    weights = hashlib.sha256(b"weights").hexdigest()
    assert f'{{"mode":420,"path":"model.txt","sha256":"{weights}","size":7}}'.encode() in content
    manifest = bundle.verify(folder, digest)
    assert [entry.path for entry in manifest.entries] == ["deep/a.json", "model.txt", "run.sh"]
    assert [entry.mode for entry in manifest.entries] == [0o644, 0o644, 0o755]
    assert bundle.canonical(manifest) == content


def test_digest_does_not_depend_on_the_umask(folder: Path) -> None:
    before = bundle.write_manifest(folder)
    os.chmod(folder / "files" / "model.txt", 0o600)
    assert bundle.write_manifest(folder) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "model.txt").write_bytes(b"weighte"), "model.txt: its sha256"),
        (lambda f: (f / "model.txt").write_bytes(b"w"), "model.txt: 1 bytes instead of 7"),
        (lambda f: (f / "deep" / "a.json").unlink(), "deep/a.json: No such file"),
        (lambda f: (f.parent / "manifest.json").write_bytes(b"{}"), "manifest.json: its sha256"),
        (lambda f: (f.parent / "manifest.json").unlink(), "manifest.json: No such file"),
    ],
)
def test_verify_names_the_corrupt_file(folder: Path, change: object, message: str) -> None:
    digest = bundle.write_manifest(folder)
    assert callable(change)
    change(folder / "files")
    with pytest.raises(bundle.BundleCorrupt, match=message):
        bundle.verify(folder, digest)


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../x", "", "a\\u0000b"])
def test_manifest_may_not_leave_the_bundle(path: str) -> None:
    content = f'{{"entries":[{{"mode":420,"path":"{path}","sha256":"","size":0}}]}}'.encode()
    with pytest.raises(bundle.BundleCorrupt, match="leaves the bundle"):
        bundle.parse_manifest(content)


def test_links_are_refused(folder: Path) -> None:
    (folder / "files" / "link").symlink_to("/etc/passwd")
    with pytest.raises(ValueError, match="link is neither"):
        bundle.manifest_of(folder / "files")
