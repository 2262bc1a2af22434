"""Files replaced whole, places, ids, times and errors."""

from __future__ import annotations

import inspect
import os
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelfleet.core import clock, errors
from modelfleet.core.files import write_atomically
from modelfleet.core.ids import digest, new_id
from modelfleet.core.layout import Layout


def test_readers_see_the_old_bytes_or_the_new_ones(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "file"
    contents = {bytes([65 + k]) * 200_000 for k in range(8)}
    write_atomically(path, min(contents))
    stop, torn = threading.Event(), []

    def read() -> None:
        while not stop.is_set():
            if path.read_bytes() not in contents:
                torn.append(1)

    reader = threading.Thread(target=read)
    reader.start()
    for content in sorted(contents) * 3:
        write_atomically(path, content)
    stop.set()
    reader.join()
    assert not torn
    assert os.listdir(path.parent) == ["file"]


def test_a_failed_write_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old", 0o600)

    def fail(*_: object) -> None:
        raise OSError("disk gone")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk gone"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["file"]


def test_ids_are_uuid7_and_grow_with_time() -> None:
    found = [new_id() for _ in range(2000)]
    assert len(set(found)) == 2000
    assert all(len(one) == 32 and one[12] == "7" and one[16] in "89ab" for one in found)
    assert [one[:12] for one in found] == sorted(one[:12] for one in found)
    assert digest(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@given(st.integers(0, 4_000_000_000_000_000))
def test_times_survive_the_way_there_and_back(microseconds: int) -> None:
    moment = clock.from_us(microseconds)
    assert moment.tzinfo is not None
    assert abs(clock.to_us(moment) - microseconds) <= 1
    assert clock.iso(microseconds).endswith("Z")


def test_socket_paths_stay_short_and_apart() -> None:
    short, long, other = (Layout(Path(p)) for p in ("/h", "/h" + "x" * 90, "/h" + "y" * 90))
    assert short.sockets == Path("/h/run/sockets")
    assert len(str(long.worker_socket("p" * 40, 11))) < 108
    assert long.sockets != other.sockets


def every_error() -> list[type[errors.FleetError]]:
    return [
        one
        for one in vars(errors).values()
        if inspect.isclass(one) and issubclass(one, errors.FleetError)
    ]


@pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.__name__)
def test_every_error_has_a_problem_body(kind: type[errors.FleetError]) -> None:
    plain = kind().problem()
    assert plain == {
        "type": f"urn:modelfleet:problem:{kind.slug}",
        "title": (kind.__doc__ or "").strip().splitlines()[0],
        "status": kind.status,
        "detail": (kind.__doc__ or "").strip().splitlines()[0],
    }
    full = kind("Why.", hint="Do this.", rollout="r1").problem()
    assert (full["detail"], full["hint"], full["rollout"]) == ("Why.", "Do this.", "r1")
    assert str(kind("Why.")) == "Why."


def test_slugs_are_stable_and_distinct() -> None:
    slugs = {kind.slug: kind.status for kind in every_error()}
    assert slugs == {
        "internal": 500,
        "invalid-input": 400,
        "unauthenticated": 401,
        "not-allowed": 403,
        "not-found": 404,
        "conflict": 409,
        "referenced": 409,
        "wrong-state": 409,
        "too-large": 413,
        "unavailable": 503,
    }


def test_ids_are_in_the_order_of_their_making() -> None:
    made = [new_id() for _ in range(5000)]
    assert made == sorted(made)
    assert len(set(made)) == len(made)
    assert {one[12] for one in made} == {"7"}
    assert {one[16] for one in made} <= set("89ab")
