"""Semantic versions: section by section of the specification."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelfleet.core.errors import InvalidInput
from modelfleet.registry.semver import Semver, parse, propose

# Section 11 of semver.org, 2.0.0, and versions around it, in order.
ORDERED = [
    "0.0.0-0",
    "0.0.1",
    "0.9.0",
    "0.10.0",
    "1.0.0-0.3.7",
    "1.0.0-1",
    "1.0.0-2",
    "1.0.0-10",
    "1.0.0-alpha",
    "1.0.0-alpha.1",
    "1.0.0-alpha.beta",
    "1.0.0-alpha-1",
    "1.0.0-beta",
    "1.0.0-beta.2",
    "1.0.0-beta.11",
    "1.0.0-rc.1",
    "1.0.0",
    "1.0.1-rc",
    "1.0.1",
    "2.0.0",
    "2.1.0",
    "2.1.1",
    "10.0.0",
]
WRONG = [
    "",
    "1",
    "1.2",
    "1.2.3.4",
    "01.2.3",
    "1.02.3",
    "v1.2.3",
    "1.2.3-",
    "1.2.3-01",
    "1.2.3-a..b",
]
WRONG += ["1.2.3+", "1.2.3+a..b", "1.2.3-a_b", "-1.2.3", "1.2.3 ", "1.2.3\n", "1.\u0662.3", "a.b.c"]
WRONG += ["1.2.3-" + "a" * 100, "1.2." + "9" * 10]


@pytest.mark.parametrize("text", [*ORDERED, "1.2.3+build.5", "1.2.3-a-b.0+001"])
def test_what_is_right_is_read_and_written_as_it_was(text: str) -> None:
    assert str(parse(text)) == text


@pytest.mark.parametrize("text", WRONG)
def test_what_is_wrong_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse(text)


def test_the_order_of_the_specification() -> None:
    for low, high in itertools.combinations(ORDERED, 2):
        assert parse(low).sort_key < parse(high).sort_key, (low, high)


def test_build_metadata_has_no_part_in_it() -> None:
    assert parse("1.0.0+a").sort_key == parse("1.0.0+b").sort_key == parse("1.0.0").sort_key


NUMBERS = st.integers(0, 999_999_999)
IDENTIFIERS = st.one_of(
    st.integers(0, 10**12).map(str),
    st.from_regex(r"[0-9]{0,3}[A-Za-z-][0-9A-Za-z-]{0,4}", fullmatch=True),
)
VERSIONS = st.builds(
    lambda a, b, c, pre: Semver(a, b, c, ".".join(pre)),
    NUMBERS,
    NUMBERS,
    NUMBERS,
    st.lists(IDENTIFIERS, max_size=4),
)


def before(a: Semver, b: Semver) -> bool:
    """Section 11, word by word."""
    if (a.major, a.minor, a.patch) != (b.major, b.minor, b.patch):
        return (a.major, a.minor, a.patch) < (b.major, b.minor, b.patch)
    if not a.prerelease or not b.prerelease:
        return bool(a.prerelease) and not b.prerelease
    left, right = a.prerelease.split("."), b.prerelease.split(".")
    for x, y in zip(left, right, strict=False):
        if x != y:
            if x.isdigit() and y.isdigit():
                return int(x) < int(y)
            if x.isdigit() != y.isdigit():
                return x.isdigit()
            return x < y
    return len(left) < len(right)


@given(VERSIONS, VERSIONS)
def test_keys_sort_as_the_specification_orders(a: Semver, b: Semver) -> None:
    assert (a.sort_key < b.sort_key) == before(a, b)
    assert parse(str(a)) == a


@given(VERSIONS, st.lists(IDENTIFIERS, min_size=1, max_size=3))
def test_keys_sort_when_only_prereleases_differ(a: Semver, pre: list[str]) -> None:
    b = Semver(a.major, a.minor, a.patch, ".".join(pre))
    assert (a.sort_key < b.sort_key) == before(a, b)
    assert (b.sort_key < a.sort_key) == before(b, a)


def test_proposals() -> None:
    last = parse("1.4.2")
    assert str(propose(None, compatible=True, same_content=False)) == "1.0.0"
    assert str(propose(last, compatible=False, same_content=False)) == "2.0.0"
    assert str(propose(last, compatible=True, same_content=False)) == "1.5.0"
    assert str(propose(last, compatible=True, same_content=True)) == "1.4.3"
