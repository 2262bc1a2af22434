"""An artifact that nobody described yet says what it takes, in a process of its own."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, LogisticRegression

from modelfleet_worker import runtimes
from modelfleet_worker.describe import Draft, describe, score_of
from modelfleet_worker.runtimes.base import (
    WHOLE,
    Facts,
    LoadError,
    Refused,
    RowByRow,
    sized,
    source_module,
)
from modelfleet_worker.runtimes.mlflow import _all_required, _example, _inputs, _narrowed
from modelfleet_worker.wire.signature import Array, Signature, TensorSpec
from modelfleet_worker.wire.spec import BundleSpec, read_example, read_spec

X = np.random.default_rng(1).normal(size=(30, 3))


def drafted(tmp_path: Path, model: object, runtime: str = "sklearn") -> Draft:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "model.pkl").write_bytes(pickle.dumps(model))
    return Draft(runtime, "model.pkl")


class Ranks:
    """Compares the rows of a batch with each other."""

    def predict(self, inputs: Any) -> Any:
        return {"rank": inputs["x"].argsort().argsort(), "best": inputs["x"].max()}


class Windows:
    """Takes no rows: a signal, and how often it was sampled."""

    def predict(self, inputs: Any) -> Any:
        return {"mean": inputs["signal"].reshape(-1, int(inputs["rate"])).mean(1)}


class Stems:
    """As long as its input is."""

    def predict(self, inputs: Any) -> Any:
        return {"half": inputs["x"] / 2, "sum": inputs["x"].sum(1)}


class Broken:
    def predict(self, inputs: Any) -> Any:
        raise ZeroDivisionError("not today")


def test_a_classifier_tells_its_inputs_and_its_score(tmp_path: Path) -> None:
    model = LogisticRegression().fit(X, X[:, 0] > 0)
    found = describe(tmp_path, drafted(tmp_path, model), None, {"x": X})
    assert [(one.name, one.datatype, one.shape) for one in found.signature.inputs] == [
        ("x", "FP64", (-1, 3))
    ]
    assert [one.name for one in found.signature.outputs] == ["label", "probability"]
    assert found.score is not None
    assert (found.score.output, found.score.column) == ("probability", 1)
    assert found.refuse_missing
    assert found.options["example"] == "made up"
    assert read_spec(tmp_path) == found
    inputs, outputs = read_example(tmp_path).arrays(found.signature)
    assert np.allclose(outputs["probability"], model.predict_proba(inputs["x"]))
    reference = json.loads((tmp_path / "files" / "reference.json").read_bytes())
    assert reference


def test_columns_are_put_into_the_order_that_the_model_knows(tmp_path: Path) -> None:
    model = LinearRegression().fit(X, X @ [1.0, 2.0, 3.0])
    given = {"f2": X[:, 2], "f0": X[:, 0], "f1": X[:, 1]}
    found = describe(tmp_path, drafted(tmp_path, model), given, None)
    assert [one.name for one in found.signature.inputs] == ["f0", "f1", "f2"]
    _, outputs = read_example(tmp_path).arrays(found.signature)
    assert np.allclose(outputs["prediction"], X @ [1.0, 2.0, 3.0])


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"x": np.zeros((4, 2))}, r"shape \[4, 2\], the model takes \[-1, 3\]"),
        ({"a": np.zeros(4), "b": np.zeros(4)}, r"inputs \['a', 'b'\], the model takes \['x'\]"),
        ({"x": np.array([["a", "b", "c"]])}, "is not FP64"),
    ],
)
def test_an_example_that_does_not_fit_is_refused(
    tmp_path: Path, given: dict[str, Array], complaint: str
) -> None:
    model = LinearRegression().fit(X, X[:, 0])
    with pytest.raises(LoadError, match=complaint):
        describe(tmp_path, drafted(tmp_path, model), given, None)
    assert not (tmp_path / "files" / "bundle.json").exists()


def test_the_process_answers_one_line(tmp_path: Path) -> None:
    draft = drafted(tmp_path, LinearRegression().fit(X, X[:, 0]))
    (tmp_path / "draft.json").write_bytes(msgspec.json.encode(draft))
    command = [sys.executable, "-m", "modelfleet_worker.describe", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, check=True)
    answer = json.loads(done.stdout)
    assert (answer["runtime"], answer["error"]) == ("sklearn", "")
    assert "scikit-learn" in answer["versions"]
    (tmp_path / "files" / "model.pkl").write_bytes(b"rubbish")
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 1
    assert "not a readable pickle" in json.loads(done.stdout)["error"]


def test_rows_that_depend_on_each_other_are_one_call(tmp_path: Path) -> None:
    x = np.array([3.0, 1.0, 2.0])
    found = describe(tmp_path, drafted(tmp_path, Ranks(), "python"), {"x": x}, None)
    assert found.options["batch"] == WHOLE
    assert [one.shape for one in found.signature.inputs] == [(-1, -1)]
    assert [one.shape for one in found.signature.outputs] == [(-1, -1), (-1,)]
    runtime = runtimes.load(tmp_path, found)
    answered = runtime.predict({"x": np.array([[5.0, 4.0], [1.0, 2.0]])})
    assert answered["rank"].tolist() == [[1, 0], [0, 1]]
    assert answered["best"].tolist() == [5.0, 2.0]
    inputs, outputs = read_example(tmp_path).arrays(found.signature)
    assert inputs["x"].shape == (1, 3)
    assert outputs["rank"].tolist() == [[2, 0, 1]]


def test_a_scalar_makes_it_one_call(tmp_path: Path) -> None:
    given = {"signal": np.arange(6.0), "rate": np.array(3)}
    found = describe(tmp_path, drafted(tmp_path, Windows(), "python"), given, None)
    assert found.options["batch"] == WHOLE
    assert [one.shape for one in found.signature.inputs] == [(-1, -1), (-1,)]
    assert found.signature.outputs[0].shape == (-1, -1)


def test_rows_for_rows_remain_rows(tmp_path: Path) -> None:
    found = describe(tmp_path, drafted(tmp_path, Stems(), "python"), {"x": X}, None)
    assert "batch" not in found.options
    assert [one.shape for one in found.signature.outputs] == [(-1, 3), (-1,)]


def test_a_table_model_with_an_example_of_unequal_columns(tmp_path: Path) -> None:
    model = LinearRegression().fit(X, X[:, 0])
    unequal = {"f0": X[:, 0], "f1": X[:3, 1], "f2": X[:, 2]}
    with pytest.raises((LoadError, ValueError)):
        describe(tmp_path, drafted(tmp_path, model), unequal, None)


def test_what_only_an_example_tells_needs_one(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="give an example"):
        describe(tmp_path, drafted(tmp_path, Broken(), "python"), None, None)


def test_an_unknown_runtime_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="no runtime 'cobol'"):
        runtimes.runtime_class("cobol")


@pytest.mark.parametrize("runtime", ["catboost", "torch", "tensorflow", "keras", "mlflow"])
def test_a_framework_that_is_not_there_is_named(tmp_path: Path, runtime: str) -> None:
    spec = BundleSpec(
        runtime,
        "model",
        msgspec.convert(
            {
                "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
                "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1]}],
            },
            type=Signature,
        ),
        options={"form": "script"},
    )
    with pytest.raises(LoadError, match="this environment"):
        runtimes.load(tmp_path, spec)


def test_models_of_one_row_are_asked_row_by_row() -> None:
    class One:
        def predict(self, inputs: Any) -> Any:
            assert len(inputs["x"]) == 1
            return {"y": inputs["x"] * 2}

    found = RowByRow(One()).predict({"x": np.arange(3.0)})
    assert found["y"].tolist() == [0, 2, 4]


def test_shapes_tell_whether_a_model_takes_rows() -> None:
    assert sized([("a", "FP32", [-1, 4]), ("b", "INT64", [-1])]) == (
        (TensorSpec("a", "FP32", (-1, 4)), TensorSpec("b", "INT64", (-1,))),
        {},
    )
    assert sized([("a", "FP32", [1, 4])]) == ((TensorSpec("a", "FP32", (-1, 4)),), {"batch": 1})
    state = [("x", "FP32", [-1, 512]), ("state", "FP32", [2, -1, 128]), ("sr", "INT64", [])]
    specs, options = sized(state)
    assert options == {"batch": WHOLE}
    assert [one.shape for one in specs] == [(-1, -1, 512), (-1, 2, -1, 128), (-1,)]
    with pytest.raises(LoadError, match="exactly 7 rows"):
        sized([("a", "FP32", [7, 4])])


def test_source_is_a_module_of_its_own(tmp_path: Path) -> None:
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "net.py").write_text(f"NAME = {place!r}")
    found = [source_module(tmp_path / place / "net.py") for place in ("one", "two")]
    assert [one.NAME for one in found] == ["one", "two"]
    (tmp_path / "bad.py").write_text("import nothing_like_it")
    with pytest.raises(LoadError, match="nothing_like_it"):
        source_module(tmp_path / "bad.py")


def test_scores() -> None:
    two, one = np.zeros((3, 2)), np.zeros((3, 1))
    assert score_of({"label": np.zeros(3), "probabilities": two}).output == "probabilities"  # type: ignore[union-attr]
    assert score_of({"output": one}).output == "output"  # type: ignore[union-attr]
    assert score_of({"output": two}) is None


def test_columns_and_tensors_of_an_mlflow_signature() -> None:
    columns = [{"type": "double", "name": "a"}, {"type": "long", "name": "b"}]
    columns += [{"type": "string", "name": "c"}, {"type": "boolean", "name": "d"}]
    found, options = _inputs(columns)
    assert found is not None
    assert [(one.datatype, one.shape) for one in found] == [
        ("FP64", (-1,)),
        ("INT64", (-1,)),
        ("BYTES", (-1,)),
        ("BOOL", (-1,)),
    ]
    assert options == {}
    tensor = {"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 28, 28]}}
    assert _inputs([tensor]) == ((TensorSpec("x", "FP32", (-1, 28, 28)),), {"tensors": True})
    assert _inputs([]) == (None, {})
    with pytest.raises(LoadError, match="'when' of its signature is of the type 'datetime'"):
        _inputs([{"type": "datetime", "name": "when"}])


def test_optional_columns_of_an_mlflow_signature_can_be_missing() -> None:
    columns: list[dict[str, Any]] = [{"type": "double", "name": "a", "required": True}]
    columns += [{"type": kind, "name": kind, "required": False} for kind in ("long", "boolean")]
    columns += [{"type": "string", "name": "s", "required": False}]
    found, options = _inputs(columns)
    assert found is not None
    assert [(one.name, one.datatype, one.optional) for one in found] == [
        ("a", "FP64", False),
        ("long", "FP64", True),
        ("boolean", "FP64", True),
        ("s", "BYTES", True),
    ]
    assert options == {"integers": ("long",), "booleans": ("boolean",)}
    assert not any(one.optional for one in _all_required(found) or ())
    assert _inputs([{"type": "string"}])[1] == {"unnamed": True}


def test_whole_numbers_of_an_optional_column() -> None:
    whole = _narrowed("n", np.array([1.0, 2.0]), np.int64)
    assert whole.dtype == np.int64
    with pytest.raises(Refused, match="'n' takes whole numbers"):
        _narrowed("n", np.array([1.5]), np.int64)
    with pytest.raises(Refused, match="'n' takes booleans"):
        _narrowed("n", np.array([2.0]), np.bool_)
    with pytest.raises(Refused, match="gaps"):
        _narrowed("n", np.array([1.0, np.nan]), np.int64)


def test_the_example_of_an_mlflow_folder(tmp_path: Path) -> None:
    assert _example(tmp_path, None) is None
    split = {"dataframe_split": {"columns": ["a", "b"], "data": [[1.0, "x"], [2.0, "y"]]}}
    (tmp_path / "serving_input_example.json").write_text(json.dumps(split))
    found = _example(tmp_path, None)
    assert found is not None
    assert found["a"].tolist() == [1.0, 2.0]
    assert found["b"].tolist() == ["x", "y"]


def test_facts_have_an_encoding() -> None:
    assert msgspec.json.decode(msgspec.json.encode(Facts()), type=Facts) == Facts()
