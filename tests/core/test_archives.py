"""Bad archives: each refused with its reason, nothing written outside, nothing left."""

from __future__ import annotations

import gzip
import io
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from modelfleet.core.archives import ArchiveRefused, Limits, extract, refuse_links

FORMS = ("tar", "tar.gz", "zip", "mar")
Entry = tuple[str, bytes]


def made(folder: Path, form: str, *entries: Entry) -> Path:
    path = folder / f"model.{form}"
    if form.startswith("tar"):
        with tarfile.open(path, "w:gz" if form.endswith("gz") else "w") as archive:
            for name, content in entries:
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        return path
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in entries:
            packed.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return path


def refused(tmp_path: Path, archive: Path, reason: str = ".", limits: Limits | None = None) -> None:
    place = tmp_path / "place"
    place.mkdir(exist_ok=True)
    before = set(tmp_path.rglob("*"))
    with pytest.raises(ArchiveRefused, match=reason) as caught:
        extract(archive, place / "out", limits)
    assert caught.value.slug == "archive-refused"
    assert set(tmp_path.rglob("*")) == before, "something was left behind"


@pytest.mark.parametrize("form", FORMS)
def test_a_good_one_is_unpacked(tmp_path: Path, form: str) -> None:
    archive = made(tmp_path, form, ("a.txt", b"one"), ("./folder/b.bin", b"two"))
    extract(archive, tmp_path / "out")
    assert (tmp_path / "out" / "a.txt").read_bytes() == b"one"
    assert (tmp_path / "out" / "folder" / "b.bin").read_bytes() == b"two"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([archive.name, "out"])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../evil", "leads out"),
        ("a/../../evil", "leads out"),
        ("/tmp/mf-evil", "no relative path"),
        ("..\\evil", "no relative path"),
        ("C:evil", "no relative path"),
        ("a\nb", "no file name"),
        ("a\x1b[2Jb", "no file name"),
        ("x" * 300, "no file name"),
        ("/".join(["d"] * 40), "deeper"),
        ("inner.tar.gz", "inside of the archive"),
        ("inner.ZIP", "inside of the archive"),
    ],
)
def test_names_that_lead_elsewhere(tmp_path: Path, form: str, name: str, reason: str) -> None:
    refused(tmp_path, made(tmp_path, form, ("fine", b"x"), (name, b"evil")), reason)
    assert not Path("/tmp/mf-evil").exists()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "names",
    [("a", "a"), ("a", "A"), ("é", "e\u0301"), ("a/b", "a"), ("a", "a/b"), ("./a", "a")],
    ids=str,
)
def test_names_that_are_there_twice(tmp_path: Path, form: str, names: tuple[str, str]) -> None:
    entries = [(name, b"x") for name in names]
    with pytest.warns(UserWarning, match="Duplicate name") if _warns(form, names) else _nothing():
        archive = made(tmp_path, form, *entries)
    refused(tmp_path, archive, "twice")


def _warns(form: str, names: tuple[str, str]) -> bool:
    return form in ("zip", "mar") and names[0] == names[1]


def _nothing() -> io.BytesIO:
    return io.BytesIO()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (Limits(total_bytes=1000), "more than 1000 bytes"),
        (Limits(files=3), "more than 3 entries"),
    ],
)
def test_too_much(tmp_path: Path, form: str, limits: Limits, reason: str) -> None:
    entries = [(f"f{k}", b"x" * 400) for k in range(4)]
    refused(tmp_path, made(tmp_path, form, *entries), reason, limits)


@pytest.mark.parametrize("form", ["tar.gz", "zip"])
def test_bombs(tmp_path: Path, form: str) -> None:
    refused(tmp_path, made(tmp_path, form, ("zeros", bytes(100 << 20))), "200 times")


def test_a_zip_that_lies_about_sizes(tmp_path: Path) -> None:
    path = made(tmp_path, "zip", ("zeros", bytes(10_000)))
    content = bytearray(path.read_bytes())
    place = content.index(b"PK\x01\x02")
    content[place + 24 : place + 28] = (10).to_bytes(4, "little")
    path.write_bytes(content)
    refused(tmp_path, path)


def test_zips_that_begin_elsewhere_or_overlap(tmp_path: Path) -> None:
    path = made(tmp_path, "zip", ("a", b"x"))
    path.write_bytes(b"#!/bin/sh\n" + path.read_bytes())
    refused(tmp_path, path, "begins somewhere else")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", b"x" * 100)
        archive.writestr("b", b"y" * 100)
    content = bytearray(path.read_bytes())
    second = content.index(b"PK\x01\x02", content.index(b"PK\x01\x02") + 1)
    content[second + 42 : second + 46] = (0).to_bytes(4, "little")
    path.write_bytes(content)
    refused(tmp_path, path)


def _member(kind: bytes, link: str = "") -> Callable[[Path, str], Path]:
    def make(folder: Path, form: str) -> Path:
        path = folder / f"model.{form}"
        with tarfile.open(path, "w:gz" if form.endswith("gz") else "w") as archive:
            member = tarfile.TarInfo("entry")
            member.type, member.linkname = kind, link
            archive.addfile(member)
            inside = tarfile.TarInfo("entry/inside")
            archive.addfile(inside)
        return path

    return make


@pytest.mark.parametrize("form", ["tar", "tar.gz"])
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_member(tarfile.SYMTYPE, "/etc"), "is a link"),
        (_member(tarfile.SYMTYPE, "../.."), "is a link"),
        (_member(tarfile.LNKTYPE, "/etc/passwd"), "is a link"),
        (_member(tarfile.CHRTYPE), "no plain file"),
        (_member(tarfile.BLKTYPE), "no plain file"),
        (_member(tarfile.FIFOTYPE), "no plain file"),
    ],
)
def test_links_and_devices_in_tar(
    tmp_path: Path, form: str, make: Callable[[Path, str], Path], reason: str
) -> None:
    refused(tmp_path, make(tmp_path, form), reason)


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO])
def test_links_and_devices_in_zip(tmp_path: Path, kind: int) -> None:
    path = tmp_path / "model.mar"
    with zipfile.ZipFile(path, "w") as archive:
        member = zipfile.ZipInfo("entry")
        member.external_attr = (kind | 0o777) << 16
        archive.writestr(member, "/etc")
    refused(tmp_path, path, "link" if kind == stat.S_IFLNK else "no plain file")


def test_a_header_that_fills_memory(tmp_path: Path) -> None:
    path = tmp_path / "model.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo("a")
        member.pax_headers = {"comment": "x" * (2 << 20)}
        archive.addfile(member)
    refused(tmp_path, path, "header")


@pytest.mark.parametrize("content", [b"", b"rubbish", b"PK\x05\x06" + bytes(18)])
def test_what_is_no_archive(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.tar.gz"
    path.write_bytes(content)
    refused(tmp_path, path)


def test_one_that_ends_too_early(tmp_path: Path) -> None:
    path = made(tmp_path, "tar", ("a", b"x" * 5000))
    packed = gzip.compress(path.read_bytes())
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes(packed[: len(packed) // 2])
    refused(tmp_path, cut)


def test_links_in_folders(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "file").write_text("x")
    (folder / "alias").symlink_to("file")
    refuse_links(folder)
    (folder / "out").symlink_to("/etc/hostname")
    with pytest.raises(ArchiveRefused, match="leads out"):
        refuse_links(folder)
