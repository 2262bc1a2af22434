"""CSV with a header, as pandas writes it: words by column, and words to values.

A cell that is empty or says so in pandas' words is missing, in columns of numbers and of text.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

_MISSING = frozenset(
    ",#N/A,#N/A N/A,#NA,-1.#IND,-1.#QNAN,-NaN,-nan,1.#IND,1.#QNAN,<NA>,N/A,NA,NULL,NaN,None,n/a,"
    "nan,null".split(",")
)
_BOOLS = {"true": True, "1": True, "false": False, "0": False}


def parse(body: bytes) -> tuple[list[str], list[tuple[str, ...]]]:
    """The names of the columns, and the words of each. ValueError if it is no such table."""
    try:
        text = io.StringIO(body.decode("utf-8-sig"), newline="")
        rows = [row for row in csv.reader(text, strict=True) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"not readable as CSV: {error}") from error
    if len(rows) < 2:
        raise ValueError("the CSV needs a header and at least one row")
    names = rows[0]
    for k, row in enumerate(rows[1:], 1):
        if len(row) != len(names):
            raise ValueError(f"row {k} has {len(row)} values, the header has {len(names)}")
    return names, list(zip(*rows[1:]))


def values(words: Sequence[str], kind: str) -> list[Any]:
    """kind: of the dtype. ValueError or KeyError if a word is no such value."""
    if kind == "f":
        return [None if word.strip() in _MISSING else _number(word) for word in words]
    if kind in "iu":
        try:
            return [int(_plain(word)) for word in words]
        except ValueError:
            return [_number(word) for word in words]
    if kind == "b":
        return [_BOOLS[word.strip().lower()] for word in words]
    return [None if word in _MISSING else word for word in words]


def _number(word: str) -> float:
    return float(_plain(word))


def _plain(word: str) -> str:
    if "_" in word:  # a separator to Python alone
        raise ValueError(f"{word!r} is no number")
    return word
