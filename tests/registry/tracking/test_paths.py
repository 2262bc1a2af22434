from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelfleet.core.errors import InvalidInput
from modelfleet.registry.tracking import paths

ESCAPES = [
    "..",
    "../x",
    "a/../../x",
    "a/..",
    "%2e%2e/x",
    "%2E%2e%2fx",
    "%252e%252e/x",
    "%25252e%25252e%25252fx",
    "..%2fx",
    "..\\x",
    "a\\..\\x",
    "%5c%5chost%5cshare",
    "/etc/passwd",
    "//etc/passwd",
    "%2fetc/passwd",
    "%252fetc",
    "C:/x",
    "c:\\x",
    "C:",
    "C%3a/x",
    "file:///etc/passwd",
    "FILE:/etc/passwd",
    "file%3a///x",
    "a#b",
    "a%23b",
    "a\x00b",
    "a%00b",
    "a\nb",
    "a%0d%0ab",
    "a\x7fb",
    "a%ffb",
    "x" * 1001,
]


@pytest.mark.parametrize("text", ESCAPES)
def test_no_spelling_leaves_the_root(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"^Invalid path$"):
        paths.clean(text)
    with pytest.raises(InvalidInput):
        paths.clean_file(text)
    with pytest.raises(InvalidInput):
        paths.held(f"mlflow-artifacts:/ok/{'../' * 3}{text}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        (".", ""),
        ("a", "a"),
        ("a/", "a"),
        ("a//b/./c", "a/b/c"),
        ("a%20b/gr%C3%B6%C3%9Fe", "a b/größe"),
        ("..a/b..", "..a/b.."),
        ("a:b", "a:b"),
        ("100%", "100%"),
        ("a?b", "a?b"),
    ],
)
def test_plain_paths_stay(text: str, expected: str) -> None:
    assert paths.clean(text) == expected


@pytest.mark.parametrize("text", ["a/", "", ".", "./"])
def test_files_have_names(text: str) -> None:
    with pytest.raises(InvalidInput):
        paths.clean_file(text)


@given(st.text(alphabet=st.sampled_from("ab./\\%25efEF:#\x00\n"), max_size=30))
def test_what_is_clean_stays_inside(text: str) -> None:
    try:
        found = paths.clean(text)
    except InvalidInput:
        return
    assert ".." not in found.split("/")
    assert not found.startswith("/")
    assert paths.clean(found) == found


def test_places() -> None:
    assert paths.join("mlflow-artifacts:/1", "r", "artifacts") == "mlflow-artifacts:/1/r/artifacts"
    assert paths.join("s3://b/x/", "r") == "s3://b/x/r"
    assert paths.held("mlflow-artifacts:/1/r") == "1/r"
    assert paths.held("mlflow-artifacts://host:1/1/r") == "1/r"
    assert paths.held("s3://bucket/1/r") is None
    assert paths.held("/tmp/x") is None


def test_models_are_seen_in_paths() -> None:
    model = "m-" + "0" * 32
    root = f"1/models/{model}/artifacts"
    assert paths.model_of(f"{root}/MLmodel") == (model, root)
    assert paths.model_of(root) == (model, root)
    assert paths.model_of(f"1/models/{model}/artifactsx") is None
    assert paths.model_of(f"1/{model}/artifacts/x") is None
