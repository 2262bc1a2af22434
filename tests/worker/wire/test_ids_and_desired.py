from __future__ import annotations

import time
import uuid
from pathlib import Path

import msgspec
import pytest

from modelfleet_worker.wire import desired, ids
from modelfleet_worker.wire.desired import PoolSpec, VersionSpec


def test_ids_are_valid_sorted_and_distinct() -> None:
    made = [ids.uuid7() for _ in range(5000)]
    assert len(set(made)) == 5000
    parsed = uuid.UUID(bytes=made[0])
    assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
    assert str(parsed) == ids.format_id(made[0])
    assert ids.parse_id(str(parsed)) == made[0]
    assert abs(ids.time_of(made[0]) - time.time() * 1000) < 60_000


def test_ids_sort_by_time_within_a_millisecond() -> None:
    base = 1_700_000_000_123_000_000
    made = [ids.uuid7_at(base + step) for step in range(0, 1_000_000, 1000)]
    assert made == sorted(made)
    assert {ids.time_of(one) for one in made} == {1_700_000_000_123}


@pytest.mark.parametrize("text", ["", "xyz", "0190a5b2", "0190a5b20000700080000000000000000"])
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        ids.parse_id(text)


def version(index: int) -> VersionSpec:
    return VersionSpec(index, "m", "1.0.0", 1, "d" * 64, "/b", "compiled")


def test_pool_round_trip(tmp_path: Path) -> None:
    spec = PoolSpec("onnx-1a2b", 12, "/usr/bin/python", 2, 2048, (version(17), version(18)))
    path = tmp_path / "desired" / "onnx-1a2b.json"
    desired.dump(spec, path)
    assert desired.load(path) == spec
    assert [p.name for p in path.parent.iterdir()] == ["onnx-1a2b.json"]


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b'{"pool":"A b","revision":1,"python":"p"}',
        b'{"pool":"a","revision":1,"python":"p","versions":[{"index":0,"model":"m","version":"1",'
        b'"sequence":1,"digest":"d","path":"p"}]}',
    ],
)
def test_broken_pools_are_refused(content: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        desired.decode(content)


def test_a_version_named_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="named twice"):
        PoolSpec("a", 1, "p", versions=(version(1), version(1)))


def test_what_a_newer_release_adds_is_ignored() -> None:
    text = (
        b'{"pool":"a","revision":3,"python":"p","new":{"x":1},"versions":[{"index":1,"model":"m",'
        b'"version":"1.0.0","sequence":1,"digest":"d","path":"p","also":[]}]}'
    )
    found = desired.decode(text)
    assert (found.revision, found.versions[0].index, found.format) == (3, 1, desired.FORMAT)


def test_a_newer_format_is_refused_whatever_else_it_says() -> None:
    with pytest.raises(msgspec.DecodeError, match="format 2 of a newer release"):
        desired.decode(b'{"format":2,"pools":[]}')
