"""Tables in and out: mapping, chunks, what is skipped, manifests."""

from __future__ import annotations

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from modelfleet.batch import manifest
from modelfleet.batch.mapping import ColumnMap
from modelfleet.batch.records import pieces
from modelfleet.batch.sinks import kept_names, output_names
from modelfleet.batch.sources import open_source
from modelfleet.batch.types import Order, Wish
from modelfleet.core.errors import Conflict, InvalidInput, NotFound
from modelfleet_worker.wire.desired import VersionSpec
from modelfleet_worker.wire.ids import time_of
from modelfleet_worker.wire.signature import Signature, TensorSpec
from modelfleet_worker.wire.spec import BundleSpec

OUT = TensorSpec("score", "FP64", (-1,))
MATRIX = (TensorSpec("x", "FP32", (-1, 2), ("a", "b")),)
MIXED = (
    TensorSpec("n", "INT8", (-1,)),
    TensorSpec("t", "BYTES", (-1,)),
    TensorSpec("b", "BOOL", (-1,)),
)


def bundle(inputs, **more) -> BundleSpec:
    return BundleSpec("python", "model.pkl", Signature(inputs, (OUT,)), **more)


def test_a_matrix_takes_its_features_in_their_order():
    table = pa.table({"b": [3, 4], "other": ["u", "v"], "a": [1.5, None]})
    found = ColumnMap(bundle(MATRIX), table.column_names, (), False).apply(table)
    np.testing.assert_array_equal(found.tensors[0], np.array([[1.5, 3], [np.nan, 4]], "f4"))
    assert (found.tensors[0].dtype, found.bad) == (np.float32, {})


def test_missing_values_are_refused_where_the_version_refuses_them():
    table = pa.table({"a": [1.0, None, np.inf], "b": [1, 2, 3]})
    found = ColumnMap(bundle(MATRIX, refuse_missing=True), ["a", "b"], (), False).apply(table)
    assert found.good.tolist() == [0]
    assert set(found.bad) == {1, 2}
    assert found.tensors[0].shape == (1, 2)


@pytest.mark.parametrize(
    ("values", "bad"),
    [
        (pa.array([1, 300, None, -128]), {1: "300", 2: "null"}),
        (pa.array([1.0, 1.5, float("nan"), 7.0]), {1: "1.5", 2: "nan"}),
    ],
)
def test_whole_numbers_must_be_whole_and_in_range(values, bad):
    table = pa.table({"n": values, "t": ["a"] * 4, "b": [True] * 4})
    found = ColumnMap(bundle(MIXED), table.column_names, (), False).apply(table)
    assert set(found.bad) == set(bad)
    assert all(text in found.bad[place] for place, text in bad.items())
    assert found.good.tolist() == [0, 3]


def test_text_is_parsed_and_what_is_no_number_is_told():
    texts = {"n": ["1", "x", "3", None], "t": ["a", None, "", "d"], "b": ["true", "0", "no", "1"]}
    table = pa.table(texts)
    found = ColumnMap(bundle(MIXED), table.column_names, (), True).apply(table)
    assert set(found.bad) == {1, 2, 3}
    assert "'x' is not INT8" in found.bad[1]
    assert [part.tolist() for part in found.tensors] == [[1], ["a"], [True]]


def test_a_column_of_another_kind_is_refused_as_a_whole():
    columns = ColumnMap(bundle(MATRIX), ["a", "b"], (), False)
    with pytest.raises(InvalidInput, match="'a' is of type string, the model takes FP32"):
        columns.apply(pa.table({"a": ["1"], "b": [1]}))


def test_columns_are_named_or_counted():
    names = ["u", "v", "b"]
    assert ColumnMap(bundle(MATRIX), names, ("a=u",), False).used == ["u", "b"]
    assert ColumnMap(bundle(MATRIX), names, ("v", "u"), False).used == ["v", "u"]
    for chosen, said in (
        (("z=u",), "no input 'z'"),
        (("u",), "names 1 columns"),
        ((), "no column 'a'"),
    ):
        with pytest.raises(InvalidInput, match=said):
            ColumnMap(bundle(MATRIX), names, chosen, False)


def test_lists_feed_wide_tensors():
    spec = bundle((TensorSpec("e", "FP32", (-1, 3)),))
    table = pa.table({"e": [[1, 2, 3], [1, 2], [4, 5, 6]]})
    found = ColumnMap(spec, ["e"], (), False).apply(table)
    assert (found.good.tolist(), set(found.bad)) == ([0, 2], {1})
    assert found.tensors[0].tolist() == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize("start", [0, 1, 7, 10, 19, 24, 25])
@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_chunks_begin_anywhere(tmp_path, kind, start):
    import pyarrow.csv

    for name, first, last in (("a", 0, 10), ("b", 10, 25)):
        part = pa.table({"k": list(range(first, last)), "other": [0] * (last - first)})
        if kind == "csv":
            pyarrow.csv.write_csv(part, tmp_path / f"{name}.csv")
        else:
            pq.write_table(part, tmp_path / f"{name}.parquet", row_group_size=4)
    source = open_source(str(tmp_path))
    found = [chunk.column("k").to_pylist() for chunk in source.chunks(["k"], start, 6)]
    assert [int(one) for chunk in found for one in chunk] == list(range(start, 25))
    assert all(len(chunk) == 6 for chunk in found[:-1])
    if kind == "parquet":
        assert source.total(0) == 25


def test_tables_that_are_none(tmp_path):
    with pytest.raises(NotFound):
        open_source(str(tmp_path / "*.parquet"))
    (tmp_path / "a.parquet").write_text("no")
    with pytest.raises(InvalidInput, match="can't be read"):
        open_source(str(tmp_path / "a.parquet"))
    (tmp_path / "a.csv").write_text("")
    with pytest.raises(InvalidInput, match="no head line"):
        open_source(str(tmp_path / "a.csv"))
    with pytest.raises(InvalidInput, match="name one kind"):
        open_source(str(tmp_path))


def order(**more) -> Order:
    wish = Wish(model="m", input="/in", output="/out", **more)
    spec = VersionSpec(1, "m", "1.0.0", 1, "d", "/bundle")
    return Order(
        id="job", wish=wish, spec=spec, caller="", model_argv=(), segment_mb=1, nice=0, cpus=0
    )


def test_a_manifest_goes_on_with_the_same_and_refuses_another(tmp_path):
    mine = manifest.identity(order(), "files")
    made = manifest.open_manifest(tmp_path, mine, "job")
    msgspec.structs.replace(made, chunks=3).save(tmp_path)
    again = manifest.open_manifest(
        tmp_path, manifest.identity(order(on_error="skip"), "files"), "j"
    )
    assert (again.run, again.chunks, again.jobs) == (made.run, 3, ("job", "j"))
    for other, said in (
        (manifest.identity(order(), "others"), "have changed since"),
        (manifest.identity(order(key=("k",)), "files"), "its key is"),
    ):
        with pytest.raises(Conflict, match=said):
            manifest.open_manifest(tmp_path, other, "job")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    with pytest.raises(Conflict, match="not empty"):
        manifest.open_manifest(tmp_path / "full", mine, "job")


def test_one_writer_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(manifest, "_LOCK_SECONDS", 0.2)
    with (
        manifest.locked(tmp_path),
        pytest.raises(Conflict, match="Another batch"),
        manifest.locked(tmp_path),
    ):
        pass
    with manifest.locked(tmp_path):
        pass


def test_pieces_have_the_same_ids_when_they_are_made_again():
    now = 1_790_000_000_123_456_789
    found = pieces("run", 3, now, 2500, 16)
    assert [(one.start, one.stop) for one in found] == [(0, 1024), (1024, 2048), (2048, 2500)]
    assert found == pieces("run", 3, now, 2500, 16)
    assert not {one.prediction_id for one in found} & {
        one.prediction_id for one in pieces("run", 4, now, 2500, 16)
    }
    assert time_of(found[0].prediction_id) == now // 1_000_000
    assert len(pieces("run", 0, now, 10, 1 << 20)) == 10
    assert pieces("run", 0, now, 0, 8) == []


def test_names_of_output_columns():
    outputs = (TensorSpec("label", "INT64", (-1,)), TensorSpec("probability", "FP64", (-1, 2)))
    signature = Signature(MATRIX, outputs)
    assert output_names(signature) == ["label", "probability_0", "probability_1"]
    assert kept_names(signature, ["id", "label"]) == ["id", "input_label"]
