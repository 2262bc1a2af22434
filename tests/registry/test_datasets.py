"""Data sets: versions by content, tables only, owners."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from modelfleet.core.authorization import Principal, Role
from modelfleet.core.errors import InvalidInput, NotAllowed, NotFound
from modelfleet.wiring import Fleet
from people import ADMIN

CSV = b"age,land,target\n1,de,0\n2,,1\n"


def put(fleet: Fleet, content: bytes) -> str:
    return fleet.blobs.put([content])[0]


def test_versions_are_contents(fleet: Fleet) -> None:
    push = fleet.datasets.push
    one = push(ADMIN, "eval", put(fleet, CSV), "csv", team="growth", description="of May")
    assert (one.reference, one.rows, one.description) == ("eval@1", 2, "of May")
    assert one.columns == {"age": "int64", "land": "string", "target": "int64"}
    assert push(ADMIN, "eval", put(fleet, CSV), "csv") == one
    two = push(ADMIN, "eval", put(fleet, CSV + b"3,fr,0\n"), "csv")
    assert (two.reference, two.rows) == ("eval@2", 3)
    get = fleet.datasets.get
    assert get(ADMIN, "eval") == get(ADMIN, "eval@latest") == get(ADMIN, "eval@2") == two
    assert get(ADMIN, "eval@1") == one
    assert [d.version for d in fleet.datasets.versions(ADMIN, "eval")] == [1, 2]
    assert fleet.datasets.list(ADMIN) == [two]
    assert fleet.datasets.path(one).read_bytes() == CSV


def test_parquet(fleet: Fleet, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"a": [1.5, None], "b": ["x", "y"]}), path)
    found = fleet.datasets.push(ADMIN, "p", put(fleet, path.read_bytes()), "parquet", team="growth")
    assert (found.rows, found.columns) == (2, {"a": "double", "b": "string"})


@pytest.mark.parametrize(
    ("content", "kind", "said"),
    [
        (b"", "csv", "can't be read as csv"),
        (b"a,b\n", "csv", "no rows"),
        (b"a,a\n1,2\n", "csv", "names a column twice"),
        (b"a,b\n1\n", "csv", "can't be read as csv"),
        (CSV, "parquet", "can't be read as parquet"),
        (CSV, "xlsx", "no format of tables"),
    ],
)
def test_what_is_no_table(fleet: Fleet, content: bytes, kind: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        fleet.datasets.push(ADMIN, "eval", put(fleet, content), kind, team="growth")
    assert fleet.datasets.list(ADMIN) == []


def test_what_is_not_there(fleet: Fleet) -> None:
    with pytest.raises(NotFound):
        fleet.datasets.get(ADMIN, "eval@1")
    with pytest.raises(NotFound):
        fleet.datasets.push(ADMIN, "eval", "a" * 64, "csv", team="growth")
    with pytest.raises(InvalidInput, match="whose is it"):
        fleet.datasets.push(ADMIN, "eval", put(fleet, CSV), "csv")
    with pytest.raises(InvalidInput, match="can't name"):
        fleet.datasets.push(ADMIN, "../eval", put(fleet, CSV), "csv", team="growth")
    fleet.datasets.push(ADMIN, "eval", put(fleet, CSV), "csv", team="growth")
    for reference in ("eval@2", "eval@99999999999999999999"):
        with pytest.raises(NotFound):
            fleet.datasets.get(ADMIN, reference)
    with pytest.raises(InvalidInput, match="names no version"):
        fleet.datasets.get(ADMIN, "eval@new")


def test_who_may(fleet: Fleet, people: Callable[[Role, str], Principal]) -> None:
    mine, theirs = people(Role.DATA_SCIENTIST, "growth"), people(Role.DATA_SCIENTIST, "risk")
    viewer = people(Role.VIEWER, "growth")
    fleet.datasets.push(mine, "eval", put(fleet, CSV), "csv", team="growth")
    for one in (theirs, viewer):
        with pytest.raises(NotAllowed):
            fleet.datasets.push(one, "eval", put(fleet, CSV + b"9,at,1\n"), "csv")
    with pytest.raises(NotAllowed):
        fleet.datasets.push(theirs, "other", put(fleet, CSV), "csv", team="growth")
    with pytest.raises(NotAllowed):
        fleet.datasets.get(theirs, "eval@1")
    assert fleet.datasets.list(theirs) == []
    assert fleet.datasets.get(viewer, "eval@1").rows == 2
