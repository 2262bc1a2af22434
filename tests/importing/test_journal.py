from __future__ import annotations

from pathlib import Path

import pytest

from modelfleet.client.errors import ClientError
from modelfleet.importing.journal import Journal
from modelfleet.importing.names import model_name, semver
from modelfleet.importing.pbtxt import BadText, parse
from modelfleet.importing.types import ATTENTION, IMPORTED, Outcome


def outcome(key: str, state: str) -> Outcome:
    return Outcome(key, "version", "churn", "1.0.0", state)


def test_the_last_word_counts_and_a_cut_line_is_dropped(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.add(outcome("a", ATTENTION))
        journal.add(outcome("a", IMPORTED))
        journal.add(outcome("b", IMPORTED))
        journal.add(outcome("b", ATTENTION))
    path = tmp_path / "journal.jsonl"
    path.write_bytes(path.read_bytes() + b'{"key": "c", "wha')
    with Journal(tmp_path) as journal:
        assert journal.imported("a") == outcome("a", IMPORTED)
        assert journal.imported("b") is None
        assert journal.imported("c") is None
        journal.add(outcome("c", IMPORTED))
    with Journal(tmp_path) as journal:
        assert journal.imported("c") is not None


def test_one_import_at_a_time(tmp_path: Path) -> None:
    with Journal(tmp_path), pytest.raises(ClientError, match="Another import"):
        Journal(tmp_path)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("churn", "churn"),
        ("Team Growth/churn v2", "Team-Growth-churn-v2"),
        ("../../etc", "etc"),
        ("é\n", "model"),
        ("x" * 200, "x" * 120),
    ],
)
def test_names(text: str, name: str) -> None:
    assert model_name(text) == name


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("3", "3.0.0"),
        ("1.2", "1.2.0"),
        ("01.2.3", "1.2.3"),
        ("1.2.3-rc.1", "1.2.3-rc.1"),
        ("v1", None),
    ],
)
def test_versions(text: str, number: str | None) -> None:
    assert semver(text) == number


def test_text_of_protocol_buffers() -> None:
    found = parse('a: 1 b { c: [1, 2.5] d: "x\\"y" "z" } b < c: -3 > e: TRUE_ENUM f: true;')
    assert found == {
        "a": [1],
        "b": [{"c": [1, 2.5], "d": ['x"yz']}, {"c": [-3]}],
        "e": ["TRUE_ENUM"],
        "f": [True],
    }


@pytest.mark.parametrize(
    "text", ["a {", "}", "a: ]", "a: [1", "1: 2", 'a: "x', "a: 1x", "a {" * 30]
)
def test_bad_text_of_protocol_buffers(text: str) -> None:
    with pytest.raises(BadText):
        parse(text)
