"""Protocol buffers in text, as Triton's config.pbtxt is written: nested dicts of lists."""

from __future__ import annotations

import re
from typing import Any

_TOKEN = re.compile(
    r"""\s+|\#[^\n]*|(?P<word>[A-Za-z_][\w.]*)|(?P<number>[-+]?[0-9.][0-9A-Za-z.+-]*)"""
    r"""|(?P<text>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')|(?P<mark>[][{}<>:,;])"""
)
MAX_DEPTH = 20
Message = dict[str, list[Any]]


class BadText(ValueError):
    """This is no text of a protocol buffer."""


def parse(text: str) -> Message:
    """Every field is a list, in order. Raises `BadText`."""
    tokens = _tokens(text)
    found, place = _message(tokens, 0, "", 0)
    if place != len(tokens):
        raise BadText(f"something follows its end: {tokens[place][1][:20]!r}")
    return found


def first(message: Message, key: str, otherwise: Any = None) -> Any:
    """The one value of a field."""
    return message[key][0] if message.get(key) else otherwise


def _tokens(text: str) -> list[tuple[str, str]]:
    found, place = [], 0
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            raise BadText(f"it can't be read at {text[place : place + 20]!r}")
        if match.lastgroup:
            found.append((match.lastgroup, match.group()))
        place = match.end()
    return found


def _message(
    tokens: list[tuple[str, str]], place: int, end: str, depth: int
) -> tuple[Message, int]:
    if depth > MAX_DEPTH:
        raise BadText("it is nested too deeply")
    found: Message = {}
    while place < len(tokens):
        kind, text = tokens[place]
        if text in ("}", ">") and kind == "mark":
            if text != end:
                raise BadText(f"{text!r} closes nothing")
            return found, place + 1
        if kind == "mark" and text in (",", ";"):
            place += 1
            continue
        if kind != "word":
            raise BadText(f"{text[:20]!r} is no name of a field")
        place += 1
        if place < len(tokens) and tokens[place] == ("mark", ":"):
            place += 1
        values, place = _value(tokens, place, depth)
        found.setdefault(text, []).extend(values)
    if end:
        raise BadText(f"{end!r} is missing")
    return found, place


def _value(tokens: list[tuple[str, str]], place: int, depth: int) -> tuple[list[Any], int]:
    if place >= len(tokens):
        raise BadText("a value is missing")
    kind, text = tokens[place]
    if text in ("{", "<"):
        message, place = _message(tokens, place + 1, "}" if text == "{" else ">", depth + 1)
        return [message], place
    if text == "[":
        found: list[Any] = []
        place += 1
        while place < len(tokens) and tokens[place][1] != "]":
            if tokens[place][1] == ",":
                place += 1
                continue
            values, place = _value(tokens, place, depth + 1)
            found += values
        if place >= len(tokens):
            raise BadText("']' is missing")
        return found, place + 1
    if kind == "mark":
        raise BadText(f"{text!r} is no value")
    if kind == "text":
        joined = ""
        while place < len(tokens) and tokens[place][0] == "text":
            joined += _unquoted(tokens[place][1])
            place += 1
        return [joined], place
    return [_plain(kind, text)], place + 1


def _unquoted(text: str) -> str:
    return re.sub(
        r"\\(.)", lambda match: {"n": "\n", "t": "\t"}.get(match[1], match[1]), text[1:-1]
    )


def _plain(kind: str, text: str) -> Any:
    if kind == "word":
        return {"true": True, "false": False}.get(text, text)
    try:
        return int(text, 0)
    except ValueError:
        try:
            return float(text.rstrip("f"))
        except ValueError as error:
            raise BadText(f"{text[:20]!r} is no number") from error
