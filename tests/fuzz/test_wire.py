"""Files that somebody else wrote, or half wrote: refused by the error that readers expect."""

from __future__ import annotations

import contextlib
import hashlib
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st
from inputs import anything, fuzz, mangled

from modelfleet_worker.wire import bundle, control, desired, segment
from modelfleet_worker.wire.bundle import BundleCorrupt
from modelfleet_worker.wire.control import CONTROL_BYTES, MAGIC, ControlBlock, State
from modelfleet_worker.wire.signature import Signature
from modelfleet_worker.wire.spec import read_example, read_spec

_HEADER = msgspec.json.encode(segment.SegmentHeader("pool", 0, 1, 2, 0, 3))
_RECORD = segment.encode(
    segment.Record(1, b"p" * 16, "r", b"", 1, 1, 200, 1, 0, 1, [b"x"], [b"y"], "c", "", "e", "")
)


def _written(payload: bytes, sequence: int = 1) -> bytes:
    """A record as it lies in a segment, checksum and all."""
    head = struct.pack("<IIQ", len(payload), zlib.crc32(payload), sequence)
    raw = head + payload
    return raw + bytes(-len(raw) % 8)


@st.composite
def segments(draw: st.DrawFn) -> bytes:
    header = draw(st.just(_HEADER) | mangled(_HEADER))
    length = draw(st.just(len(header)) | st.integers(0, 2**32 - 1))
    front = segment.MAGIC + struct.pack("<I", length) + header
    payloads = draw(st.lists(st.just(_RECORD) | mangled(_RECORD) | st.binary(max_size=40)))
    records = b"".join(_written(p) for p in payloads)
    whole = front.ljust(segment.FIRST, b"\0") + draw(st.just(records) | mangled(records))
    return whole[: draw(st.just(len(whole)) | st.integers(0, len(whole)))]


@fuzz
@given(content=segments())
@example(content=b"")
@example(content=segment.MAGIC)
@example(content=segment.MAGIC + b"\xff")
def test_segments(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.seg"
    path.write_bytes(content)
    try:
        reader = segment.SegmentReader(path)
    except ValueError:
        return
    with reader:
        offset, seen = segment.FIRST, 0
        while True:
            found, following = reader.read(offset)
            seen += len(found)
            if following == offset:
                break
            offset = following
        assert seen * 24 <= len(content)


def test_what_follows_a_broken_record_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.seg"
    front = (segment.MAGIC + struct.pack("<I", len(_HEADER)) + _HEADER).ljust(4096, b"\0")
    text = _RECORD.replace(b"\xa1r", b"\xa1\xff")  # no UTF-8
    path.write_bytes(front + _written(text) + _written(b"\xc1") + _written(_RECORD))
    with segment.SegmentReader(path) as reader:
        assert [record.request_id for _, record in reader.read()[0]] == ["r"]
        assert reader.skipped == 2


@fuzz
@given(head=st.binary(max_size=600), slots=st.binary(max_size=300), size=st.integers(0, 20_000))
def test_control_blocks(tmp_path: Path, head: bytes, slots: bytes, size: int) -> None:
    path = tmp_path / "a.ctl"
    content = (MAGIC + head).ljust(4096, b"\0") + slots
    path.write_bytes(content.ljust(max(size, len(content)), b"\xff"))
    try:
        block = ControlBlock.open(path)
    except ValueError:
        assert path.stat().st_size < CONTROL_BYTES
        return
    with block:
        assert isinstance(block.snapshot().state, State)
        assert len(block.slots()) <= control.SLOTS
        assert block.culprit() >= 0
        block.blamed()


_POOL = msgspec.json.encode(
    desired.PoolSpec(
        "p", 1, "python", versions=(desired.VersionSpec(1, "m", "1.0.0", 1, "d", "/p"),)
    )
)


@fuzz
@given(
    content=mangled(_POOL)
    | st.binary(max_size=60)
    | anything.map(lambda plain: json.dumps(plain).encode())
)
@example(content=b'{"pool":"p","revision":1,"python":"\xff"}')
def test_desired_files(content: bytes) -> None:
    with contextlib.suppress(msgspec.DecodeError):
        desired.decode(content)


_MANIFEST = bundle.canonical(bundle.Manifest((bundle.Entry(0o644, "a/b", "0" * 64, 3),)))


@fuzz
@given(content=mangled(_MANIFEST), path=st.text(max_size=12) | st.sampled_from(["../x", "/x", "."]))
@example(content=b'{"entries":[{"mode":1,"path":"\xff","sha256":"","size":1}]}', path="a")
def test_manifests(tmp_path: Path, content: bytes, path: str) -> None:
    with contextlib.suppress(BundleCorrupt):
        bundle.parse_manifest(content)
    entry: dict[str, Any] = {"mode": 420, "path": path, "sha256": "0" * 64, "size": 3}
    whole = json.dumps({"entries": [entry]}).encode()
    (tmp_path / "manifest.json").write_bytes(whole)
    with contextlib.suppress(BundleCorrupt):
        bundle.verify(tmp_path, hashlib.sha256(whole).hexdigest())
        raise AssertionError("a file that is not there was verified")


_SPEC = (
    b'{"runtime":"sklearn","artifact":"a","signature":{"inputs":[{"name":"x","datatype":"INT8",'
    b'"shape":[-1,2]}],"outputs":[{"name":"y","datatype":"FP64","shape":[-1]}]}}'
)


@fuzz
@given(content=mangled(_SPEC), inputs=anything)
@example(content=_SPEC, inputs=[[1, 300]])
@example(content=_SPEC, inputs=[[1, 2, 3]])
@example(content=_SPEC.replace(b'"x"', b'"\xff"'), inputs=[])
def test_what_a_bundle_says_of_itself(tmp_path: Path, content: bytes, inputs: Any) -> None:
    files = tmp_path / "files"
    files.mkdir(exist_ok=True)
    (files / "bundle.json").write_bytes(content)
    example_file = json.dumps({"inputs": {"x": inputs}, "outputs": {"y": [1.0]}}).encode()
    (files / "example.json").write_bytes(example_file)
    with contextlib.suppress(BundleCorrupt):
        signature: Signature = read_spec(tmp_path).signature
        read_example(tmp_path).arrays(signature)
