"""Content-addressed bytes."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelfleet.core.blobs import FolderBlobStore
from modelfleet.core.errors import Conflict, InvalidInput, NotFound, TooLarge, Unavailable


@pytest.fixture
def blobs(tmp_path: Path) -> FolderBlobStore:
    return FolderBlobStore(tmp_path)


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def visible(tmp_path: Path) -> list[str]:
    return sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file())


def test_what_was_put_is_there_under_its_digest(blobs: FolderBlobStore, tmp_path: Path) -> None:
    assert blobs.put([b"ab", b"", b"c"]) == (sha(b"abc"), 3)
    assert blobs.path(sha(b"abc")).read_bytes() == b"abc"
    assert blobs.has(sha(b"abc"))
    assert visible(tmp_path) == [f"sha256/{sha(b'abc')[:2]}/{sha(b'abc')}"]
    blobs.delete(sha(b"abc"))
    blobs.delete(sha(b"abc"))
    assert not blobs.has(sha(b"abc"))
    with pytest.raises(NotFound):
        blobs.path(sha(b"abc"))


def test_another_digest_is_refused_and_nothing_stays(
    blobs: FolderBlobStore, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput, match=sha(b"abc")):
        blobs.put([b"abc"], expected=sha(b"abd"))
    assert visible(tmp_path) == []


def test_a_broken_upload_leaves_nothing(blobs: FolderBlobStore, tmp_path: Path) -> None:
    def half() -> Iterator[bytes]:
        yield b"a" * 100_000
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError):
        blobs.put(half())
    assert visible(tmp_path) == []


def test_a_full_disk_is_told_as_such(
    blobs: FolderBlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Unavailable, match="full"):
        blobs.put([b"abc"])
    assert visible(tmp_path) == []


def test_many_at_once_make_each_blob_once(blobs: FolderBlobStore, tmp_path: Path) -> None:
    contents = [bytes([k]) * 50_000 for k in range(4)]
    failures: list[BaseException] = []

    def put(k: int) -> None:
        try:
            content = contents[k % 4]
            assert blobs.put([content[:10], content[10:]], expected=sha(content))[1] == 50_000
            assert blobs.path(sha(content)).read_bytes() == content
        except BaseException as error:  # noqa: BLE001 - shown below
            failures.append(error)

    threads = [threading.Thread(target=put, args=(k,)) for k in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(visible(tmp_path)) == 4


@pytest.mark.parametrize(
    "name",
    ["", "abc", "../" * 21 + "a", "/etc/passwd", "A" * 64, "g" * 64, "0" * 63, "0" * 65, "٠" * 64],
)
def test_names_that_are_no_digests_are_refused(blobs: FolderBlobStore, name: str) -> None:
    for act in (blobs.path, blobs.has, blobs.delete):
        with pytest.raises(InvalidInput):
            act(name)
    with pytest.raises(InvalidInput):
        blobs.put([b"x"], expected=name)


# Uploads in parts -------------------------------------------------------------------------------


def test_an_upload_goes_on_where_it_stands(tmp_path: Path) -> None:
    store = FolderBlobStore(tmp_path)
    content = bytes(range(256)) * 1000
    sha256 = hashlib.sha256(content).hexdigest()
    assert store.append(sha256, 0, len(content), [content[:1000]]) == 1000

    def breaks() -> Iterator[bytes]:
        yield content[1000:1500]
        raise ConnectionError("the client is gone")

    with pytest.raises(ConnectionError):
        store.append(sha256, 1000, len(content), breaks())
    assert store.held(sha256) == 1500
    assert not store.has(sha256)
    with pytest.raises(Conflict) as caught:
        store.append(sha256, 1000, len(content), [b"x"])
    assert caught.value.fields["offset"] == 1500
    assert store.append(sha256, 1500, len(content), [content[1500:]]) == len(content)
    assert store.path(sha256).read_bytes() == content
    assert store.held(sha256) == 0
    assert store.append(sha256, 0, len(content), [b"not needed"]) == len(content)


def test_an_upload_of_something_else_is_forgotten(tmp_path: Path) -> None:
    store = FolderBlobStore(tmp_path)
    sha256 = hashlib.sha256(b"right").hexdigest()
    with pytest.raises(InvalidInput):
        store.append(sha256, 0, 5, [b"wrong"])
    assert store.held(sha256) == 0
    with pytest.raises(TooLarge):
        store.append(sha256, 0, 5, [b"too long"])
    assert (store.held(sha256), store.has(sha256)) == (0, False)
