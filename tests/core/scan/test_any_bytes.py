"""Whatever the bytes are: an answer, no exception, and never `clean` for what calls something."""

from __future__ import annotations

import pickle
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from modelfleet.core.archives import ArchiveRefused, extract
from modelfleet.core.scan import Findings, Verdict, scan
from modelfleet.importing.pbtxt import BadText, parse

MODEL = pickle.dumps(LogisticRegression(), 2)
CALL = b"cos\nsystem\n(S'true'\ntR."


def scanned(content: bytes) -> Findings:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.pkl"
        path.write_bytes(content)
        return scan(path)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes(content: bytes) -> None:
    assert scanned(content).verdict in Verdict


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(MODEL) - 1), st.binary(min_size=1, max_size=6))
def test_a_model_with_a_dent(place: int, dent: bytes) -> None:
    assert scanned(MODEL[:place] + dent + MODEL[place + len(dent) :]).verdict in Verdict


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(MODEL)))
def test_a_call_inside_of_a_model(place: int) -> None:
    assert scanned(MODEL[:place] + CALL + MODEL[place:]).verdict is not Verdict.CLEAN


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=600), st.sampled_from(["tar", "zip", "tar.gz"]))
def test_any_archive(content: bytes, form: str) -> None:
    heads = {"tar": b"", "zip": b"PK\x03\x04", "tar.gz": b"\x1f\x8b\x08"}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a.{form}"
        path.write_bytes(heads[form] + content)
        try:
            extract(path, Path(folder) / "out")
        except ArchiveRefused:
            assert sorted(one.name for one in Path(folder).iterdir()) == [path.name]


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet='ab:{}[]<>"\\ \n,1.-#', max_size=60))
def test_any_text(text: str) -> None:
    try:
        parse(text)
    except BadText:
        return
