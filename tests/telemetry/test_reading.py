"""Blocks of records are read as single ones are; columns of a batch, and requests that return."""

from __future__ import annotations

import random
import zlib
from typing import get_args, get_type_hints

import msgspec
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from modelfleet.telemetry.batches import Batch, Row, groups
from modelfleet.telemetry.dedupe import Deduplicator, request_keys
from modelfleet.telemetry.reading import BLOCK_BYTES, BlockReader
from modelfleet_worker.wire.segment import FIRST, Record, SegmentReader


def read_all(reader: BlockReader) -> list[Record]:
    records: list[Record] = []
    offset, is_last = FIRST, False
    while not is_last:
        rows, end, is_last = reader.read_block(offset)
        assert end > offset or (is_last and not rows)
        records += [Record(*row) for row in rows]
        offset = end
    return records


def test_rows_are_the_fields_of_a_record():
    assert get_args(Row) == tuple(get_type_hints(Record).values())


def test_blocks_hold_what_single_records_hold(home):
    rng = random.Random(1)
    writer = home.writer(megabytes=4)
    written = []
    for k in range(3000):
        record = home.record(1, rows=rng.choice([1, 1, 3]), status=rng.choice([200, 200, 500]))
        if k % 700 == 7:  # longer than a block
            record = msgspec.structs.replace(record, inputs=[bytes(BLOCK_BYTES + k)])
        content = list(msgspec.structs.astuple(record))
        if k % 500 == 3:
            writer.append(b"whole, but no record")
        elif k % 500 == 4:
            writer.append(msgspec.msgpack.encode(content[:-1]))  # of an older worker
        elif k % 500 == 5:
            writer.append(msgspec.msgpack.encode([*content, "more"]))  # of a newer one
        else:
            writer.append(msgspec.msgpack.encode(content))
        written += [record] if k % 500 != 3 else []
    (path,) = home.layout.segments.glob("*.seg")
    with BlockReader(path) as blocks, SegmentReader(path) as single:
        found = read_all(blocks)
        assert found == [record for _, record in single.read()[0]] == written
        assert blocks.skipped == single.skipped == 6


def test_a_block_ends_where_a_record_is_not_yet_right(home):
    home.write(*[home.record(1) for _ in range(5)])
    (path,) = home.layout.segments.glob("*.seg")
    with SegmentReader(path) as single:
        places = [at for at, _ in single.read()[0]]
    content = bytearray(path.read_bytes())
    for broken in (
        bytes(8),  # length and checksum are written last
        (1 << 31).to_bytes(4, "little") + bytes(4),  # no such length
        content[places[3] : places[3] + 4] + zlib.crc32(b"other").to_bytes(4, "little"),
    ):
        torn = home.layout.home / "torn.seg"
        torn.write_bytes(content[: places[3]] + broken + content[places[3] + 8 :])
        with BlockReader(torn) as blocks:
            assert len(read_all(blocks)) == 3
            rows, end, is_last = blocks.read_block(places[3])
            assert (rows, end, is_last) == ([], places[3], True)
            torn.write_bytes(content)
            assert len(blocks.read_block(places[3])[0]) == 2


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(-2, 2), st.booleans()), max_size=50))
def test_groups_keep_order_and_lose_nothing(items):
    first = np.array([one for one, _, _ in items], dtype=np.int64)
    second = np.array([one for _, one, _ in items], dtype=np.int64)
    places = np.array([k for k, (*_, taken) in enumerate(items) if taken], dtype=np.intp)
    found = groups(places, first, second)
    assert sorted(place for group in found for place in group.tolist()) == places.tolist()
    keys = [{(first[k], second[k]) for k in group.tolist()} for group in found]
    assert all(len(one) == 1 for one in keys)
    assert len(set.union(set(), *keys)) == len(found)
    assert all(group.tolist() == sorted(group.tolist()) for group in found)


def test_requests_are_remembered_for_one_window_and_at_most_two(home):
    dedupe = Deduplicator(window_seconds=60.0)
    batches = [Batch.of([home.record(1), home.record(1, attempt=3)]) for _ in range(3)]
    for turn, batch in enumerate(batches):
        dedupe.forget(1000.0 + 40 * turn)  # the third time, the first two grow old
        dedupe.remember(request_keys(batch), 2 * turn)
        dedupe.keep(2 * turn, batch)
    for turn, batch in enumerate(batches):
        keys = request_keys(batch)
        assert dedupe.known(keys) == set(keys)
        assert dedupe.find(keys[1]) == (3, batch.prediction_ids[1], 2 * turn + 1)
    dedupe.forget(1139.0)
    assert all(dedupe.known(request_keys(batch)) for batch in batches)
    dedupe.forget(1140.0)
    assert [bool(dedupe.known(request_keys(batch))) for batch in batches] == [False, False, True]
    dedupe.forget(1210.0)
    assert not any(dedupe.known(request_keys(batch)) for batch in batches)


def test_a_request_without_an_id_is_no_other(home):
    nameless = [msgspec.structs.replace(home.record(1), request_id="") for _ in range(3)]
    crashed = [home.record(1, request_id="r", status=599) for _ in range(2)]
    keys = request_keys(Batch.of([*nameless, *crashed, home.record(1, request_id="r")]))
    assert len(set(keys)) == 6
