"""What is remembered of the code that trained a model."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from modelfleet.client.code import snapshot_of
from modelfleet.client.errors import ClientError


def git(folder: Path, *arguments: str) -> str:
    author = ["-c", "user.name=a", "-c", "user.email=a@b"]
    done = subprocess.run(
        ["git", "-C", str(folder), *author, *arguments], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = (tmp_path / "repo").resolve()
    (root / "src" / "__pycache__").mkdir(parents=True)
    (root / "src" / "train.py").write_text("x = 1\n")
    (root / "src" / "__pycache__" / "train.pyc").write_bytes(b"x")
    (root / "src" / "link.py").symlink_to("/etc/hostname")
    git(root, "init", "-q", "-b", "work")
    git(root, "add", ".")
    git(root, "commit", "-qm", "one")
    git(root, "remote", "add", "origin", "https://user:secret@example.org/x.git")
    return root


def test_commit_and_files_of_a_repository(repository: Path) -> None:
    found, files = snapshot_of([repository / "src", repository / "src" / "train.py"])
    assert found["commit"] == git(repository, "rev-parse", "HEAD")
    assert (found["branch"], found["dirty"]) == ("work", False)
    assert [one["path"] for one in found["files"]] == ["src/train.py"]
    assert files == {found["files"][0]["sha256"]: repository / "src" / "train.py"}
    assert "secret" not in str(found)


def test_a_change_makes_it_dirty(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (repository / "src" / "train.py").write_text("x = 2\n")
    monkeypatch.chdir(repository)
    found, files = snapshot_of([])
    assert (found["dirty"], "files" in found, files) == (True, False, {})


def test_outside_of_git_there_are_files_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.py").write_text("1")
    monkeypatch.chdir(tmp_path)
    found, _ = snapshot_of(["a.py"])
    assert list(found) == ["files"]
    assert snapshot_of([]) == ({}, {})


def test_what_is_not_there_or_outside_is_refused(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(ClientError, match="There is no"):
        snapshot_of([repository / "none.py"])
    outside = tmp_path / "b.py"
    outside.write_text("1")
    with pytest.raises(ClientError, match="not below"):
        snapshot_of([repository / "src", outside])
