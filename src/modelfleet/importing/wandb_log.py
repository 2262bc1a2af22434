"""The `.wandb` log of a run: framed as LevelDB frames its logs, protocol buffers inside.

Only what a run record needs is decoded: the run, its config, history and summary.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MAGIC = b":W&B\xe1\xbe"
_BLOCK = 32768
_HEADER = struct.Struct("<IHB")
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4
_HISTORY, _SUMMARY, _CONFIG, _RUN, _EXIT = 2, 3, 5, 17, 18
_MAX_RECORD = 256 << 20
Fields = dict[int, list[Any]]


class BadLog(ValueError):
    """This is no log of a run, or a damaged one."""


@dataclass
class Log:
    """started: milliseconds since 1970. exit_code: None if the run never ended."""

    id: str = ""
    project: str = ""
    name: str = ""
    started: int = 0
    exit_code: int | None = None
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)


def read(path: Path) -> Log:
    """Raises `BadLog`. A log that ends within a record (a run that was killed) is read up to it."""
    found = Log()
    try:
        for record in _records(path.read_bytes()):
            _take(found, _fields(record))
    except (struct.error, IndexError, UnicodeError, TypeError) as error:
        raise BadLog(f"{path.name}: {error}") from error
    return found


def _records(content: bytes) -> Iterator[bytes]:
    if not content.startswith(MAGIC):
        raise BadLog("it does not begin like a log of wandb")
    place, parts = 7, b""
    while place + _HEADER.size <= len(content):
        left = _BLOCK - place % _BLOCK
        if left < _HEADER.size:
            place += left
            continue
        checksum, size, kind = _HEADER.unpack_from(content, place)
        place += _HEADER.size
        data = content[place : place + size]
        place += size
        if len(data) < size:
            return
        if kind not in (_FULL, _FIRST, _MIDDLE, _LAST) or checksum != zlib.crc32(
            data, zlib.crc32(bytes([kind]))
        ):
            raise BadLog("a record of it is damaged")
        parts = data if kind in (_FULL, _FIRST) else parts + data
        if len(parts) > _MAX_RECORD:
            raise BadLog("a record of it is too long")
        if kind in (_FULL, _LAST):
            yield parts


def _fields(data: bytes) -> Fields:
    """Fields of a message by number: integers, eight bytes, or bytes, as they lie there."""
    found: Fields = {}
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        number, kind = key >> 3, key & 7
        value: Any
        if kind == 0:
            value, place = _varint(data, place)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
            value, place = data[place : place + size], place + size
        elif kind == 2:
            size, place = _varint(data, place)
            value, place = data[place : place + size], place + size
            if len(value) < size:
                raise BadLog("a message of it is cut")
        else:
            raise BadLog(f"a message of it has the wire type {kind}")
        found.setdefault(number, []).append(value)
    return found


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place
        if shift > 63:
            raise BadLog("a number of it is too long")


def _take(log: Log, record: Fields) -> None:
    for content in record.get(_RUN, []):
        run = _fields(content)
        log.id, log.project = _text(run, 1) or log.id, _text(run, 3) or log.project
        log.name = _text(run, 8) or log.name
        log.tags = [one.decode() for one in run.get(10, [])] or log.tags
        log.started = log.started or _moment(run)
        for config in run.get(4, []):
            _update(log.config, _fields(config))
    for content in record.get(_CONFIG, []):
        _update(log.config, _fields(content))
    for content in record.get(_SUMMARY, []):
        _update(log.summary, _fields(content))
    for content in record.get(_HISTORY, []):
        message = _fields(content)
        row: dict[str, Any] = {}
        for item in message.get(1, []):
            key, value = _item(_fields(item))
            row[key] = value
        for step in message.get(2, []):
            row.setdefault("_step", (_fields(step).get(1) or [0])[0])
        log.history.append(row)
    for content in record.get(_EXIT, []):
        log.exit_code = int((_fields(content).get(1) or [0])[0])


def _update(target: dict[str, Any], message: Fields) -> None:
    for item in message.get(1, []):
        key, value = _item(_fields(item))
        target[key] = value


def _item(item: Fields) -> tuple[str, Any]:
    """A key (or a path of keys, joined by dots) and its value: JSON, or typed."""
    nested = [one.decode() for one in item.get(2, [])]
    key = ".".join(nested) or _text(item, 1)
    for number in (16, 8):
        if number in item:
            return key, _json(item[number][0].decode())
    if 6 in item:
        return key, struct.unpack("<d", item[6][0])[0]
    if 5 in item:
        raw = item[5][0]
        if isinstance(raw, int):
            return key, raw - (1 << 64) if raw >> 63 else raw
    if 4 in item:
        return key, bool(item[4][0])
    return key, _text(item, 7) if 7 in item else None


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _text(message: Fields, number: int) -> str:
    found = message.get(number)
    return found[0].decode() if found else ""


def _moment(run: Fields) -> int:
    if 17 not in run:
        return 0
    said = _fields(run[17][0])
    return int((said.get(1) or [0])[0]) * 1000 + int((said.get(2) or [0])[0]) // 1_000_000
