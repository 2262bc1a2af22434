"""What is saved is what the worker loads: every framework, there and back."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pytest
import xgboost
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import LinearSVC

from modelfleet.client.saving import EXAMPLE_ROWS, Saved, requirements_of, save
from modelfleet.registry.signature import read
from modelfleet_worker.runtimes import load
from modelfleet_worker.runtimes.base import Conformer
from modelfleet_worker.wire.spec import read_spec

RNG = np.random.default_rng(3)
X = RNG.normal(size=(300, 4))
Y = (X[:, 0] + X[:, 1] > 0).astype(np.int64)
Z = X @ np.array([1.0, 2.0, 0.0, -1.0]) + 0.1
THREE = np.array(["low", "mid", "top"])[np.clip(np.round(X[:, 0]), -1, 1).astype(int) + 1]


def stored(saved: Saved, folder: Path) -> Path:
    """The files of a bundle where a worker would find them."""
    for path in saved.files:
        (folder / path).write_bytes(saved.content(path))
    return folder


def described(saved: Saved) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(saved.content("bundle.json"))
    read(saved.content("bundle.json"))  # the server takes it
    return found


MODELS: dict[str, Callable[[], Any]] = {
    "sklearn classifier": lambda: LogisticRegression().fit(X, Y),
    "sklearn pipeline": lambda: make_pipeline(StandardScaler(), LogisticRegression()).fit(X, THREE),
    "sklearn regressor": lambda: RandomForestRegressor(5, random_state=0).fit(X, Z),
    "lightgbm classifier": lambda: lightgbm.LGBMClassifier(n_estimators=5, verbose=-1).fit(X, Y),
    "lightgbm regressor": lambda: lightgbm.LGBMRegressor(n_estimators=5, verbose=-1).fit(X, Z),
    "xgboost classifier": lambda: xgboost.XGBClassifier(n_estimators=5).fit(X, Y),
    "xgboost regressor": lambda: xgboost.XGBRegressor(n_estimators=5).fit(X, Z),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.filterwarnings("ignore")
def test_missing_values_are_refused_where_the_model_cannot_take_them(
    name: str, tmp_path: Path
) -> None:
    model = MODELS[name]()
    takes_gaps = not name.startswith("sklearn") or "forest" in type(model).__name__.lower()
    found = described(save(model, X, work=tmp_path)).get("refuse_missing", False)
    assert found is not takes_gaps
    for choice in (True, False):
        saved = save(model, X, refuse_missing=choice, work=tmp_path)
        assert described(saved)["refuse_missing"] is choice


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.filterwarnings("ignore")
def test_every_framework_answers_as_before(name: str, tmp_path: Path) -> None:
    model = MODELS[name]()
    saved = save(model, X, features=["a", "b", "c", "d"], reference=X, work=tmp_path)
    info = described(saved)
    assert info["runtime"] == name.split()[0]
    (tensor,) = info["signature"]["inputs"]
    assert (tensor["name"], tensor["datatype"], tensor["shape"]) == ("x", "FP64", [-1, 4])
    assert tensor["features"] == ["a", "b", "c", "d"]
    outputs = answers(saved, tmp_path / "bundle", {"x": X[:7]})
    if "regressor" in name:
        assert list(outputs) == ["prediction"]
        np.testing.assert_allclose(outputs["prediction"], model.predict(X[:7]), rtol=1e-6)
    else:
        assert list(outputs) == ["label", "probability"]
        assert list(outputs["label"]) == list(model.predict(X[:7]))
        np.testing.assert_allclose(outputs["probability"], model.predict_proba(X[:7]), rtol=1e-6)
    names = {one.split("==")[0] for one in saved.requirements}
    wanted = {"sklearn": "scikit-learn", "lightgbm": "lightgbm", "xgboost": "xgboost-cpu"}
    assert wanted[name.split()[0]] in names


def answers(
    saved: Saved, bundle: Path, inputs: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """What a worker would answer."""
    (bundle / "files").mkdir(parents=True)
    stored(saved, bundle / "files")
    spec = read_spec(bundle)
    rows = len(next(iter(inputs.values())))
    found = Conformer(spec.signature).apply(load(bundle, spec).predict(inputs), rows)
    return {one.name: array for one, array in zip(spec.signature.outputs, found, strict=True)}


def test_the_example_and_the_reference_are_kept(tmp_path: Path) -> None:
    model = LogisticRegression().fit(X, Y)
    saved = save(model, X, reference=X, work=tmp_path)
    example = json.loads(saved.content("example.json"))
    assert len(example["inputs"]["x"]) == EXAMPLE_ROWS < len(X)
    assert len(example["outputs"]["label"]) == EXAMPLE_ROWS
    reference = json.loads(saved.content("reference.json"))
    assert reference["rows"] == len(X)
    assert [one["name"] for one in reference["features"]] == ["f0", "f1", "f2", "f3"]
    assert all(sum(one["counts"]) == len(X) for one in reference["features"])
    assert sum(reference["score"]["counts"]) == len(X)
    assert described(saved)["score"] == {"output": "probability", "column": 1}
    assert "reference.json" not in save(model, X, work=tmp_path).files


def test_columns_may_be_words(tmp_path: Path) -> None:
    words = np.array(["a", "b", "c"], dtype=object)[RNG.integers(0, 3, 300)]
    table = np.empty((300, 2), dtype=object)
    table[:, 0], table[:, 1] = words, X[:, 0]
    split = ColumnTransformer([("w", OneHotEncoder(), [0]), ("n", "passthrough", [1])])
    model = make_pipeline(split, LogisticRegression()).fit(table, Y)
    columns = {"word": words, "number": X[:, 0]}
    saved = save(model, columns, reference=columns, work=tmp_path)
    tensors = described(saved)["signature"]["inputs"]
    assert [(t["name"], t["datatype"], t["shape"]) for t in tensors] == [
        ("word", "BYTES", [-1]),
        ("number", "FP64", [-1]),
    ]
    kinds = [one["kind"] for one in json.loads(saved.content("reference.json"))["features"]]
    assert kinds == ["levels", "numeric"]
    found = answers(saved, tmp_path / "bundle", {name: c[:5] for name, c in columns.items()})
    np.testing.assert_allclose(found["probability"], model.predict_proba(table[:5]))


def test_a_frame_is_its_columns(tmp_path: Path) -> None:
    import polars

    frame = polars.DataFrame({"a": X[:, 0], "b": X[:, 1]})
    model = LinearRegression().fit(X[:, :2], Z)
    saved = save(model, frame, work=tmp_path)
    assert [t["name"] for t in described(saved)["signature"]["inputs"]] == ["a", "b"]


SOURCE = """
import numpy as np
class Doubler:
    def __init__(self, factor): self.factor = factor
    def predict(self, inputs): return {"twice": np.asarray(inputs["x"])[:, 0] * self.factor}
"""


def test_code_of_the_callers_own_travels_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "my_own_code.py"
    path.write_text(SOURCE)
    found = importlib.util.spec_from_file_location("my_own_code", path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    monkeypatch.setitem(sys.modules, "my_own_code", module)
    found.loader.exec_module(module)
    saved = save(module.Doubler(2.0), X, work=tmp_path)
    monkeypatch.delitem(sys.modules, "my_own_code")
    path.unlink()
    assert described(saved)["runtime"] == "python"
    answer = answers(saved, tmp_path / "bundle", {"x": X[:3]})
    np.testing.assert_allclose(answer["twice"], 2 * X[:3, 0])
    assert "my_own_code" not in sys.modules
    assert any(one.startswith("cloudpickle==") for one in saved.requirements)


def test_requirements_are_pinned_to_what_is_installed() -> None:
    import importlib.metadata

    found = requirements_of(LogisticRegression())
    assert found == (
        f"numpy=={importlib.metadata.version('numpy')}",
        f"scikit-learn=={importlib.metadata.version('scikit-learn')}",
    )
    mixed = make_pipeline(StandardScaler(), lightgbm.LGBMClassifier())
    assert any(one.startswith("lightgbm==") for one in requirements_of(mixed))


def test_given_requirements_are_taken_as_they_are(tmp_path: Path) -> None:
    saved = save(LinearRegression().fit(X, Z), X, requirements=["mine==1"], work=tmp_path)
    assert saved.requirements == ("mine==1",)


@pytest.mark.parametrize("example", [X[0], X[None], [1.0, 2.0]], ids=["row", "cube", "list"])
def test_an_example_is_a_matrix_or_columns(example: object, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="matrix"):
        save(LinearRegression().fit(X, Z), example, work=tmp_path)


def test_what_nobody_knows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="dict can't be saved"):
        save({}, X, work=tmp_path)


def test_predictions_keep_their_type(tmp_path: Path) -> None:
    words = described(save(LinearSVC().fit(X, THREE), X, work=tmp_path))
    assert words["signature"]["outputs"][0]["datatype"] == "BYTES"
    groups = described(save(KMeans(3, n_init=1).fit(X), X, work=tmp_path))
    assert groups["signature"]["outputs"][0]["datatype"] == "INT32"


def test_a_classifier_of_several_outputs_gives_its_labels(tmp_path: Path) -> None:
    several = np.column_stack([Y, 1 - Y])
    model = RandomForestClassifier(5, random_state=0).fit(X, several)
    found = answers(save(model, X, work=tmp_path), tmp_path, {"x": X})
    assert (found["prediction"] == model.predict(X)).all()


def test_a_vectorizer_gets_its_texts(tmp_path: Path) -> None:
    texts = np.array(["good day", "bad mood"] * 10, dtype=object)
    model = make_pipeline(CountVectorizer(), LogisticRegression()).fit(texts, [1, 0] * 10)
    saved = save(model, {"text": texts}, work=tmp_path)
    found = answers(saved, tmp_path, {"text": texts})
    assert (found["label"] == model.predict(texts)).all()


def test_what_only_transforms_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="StandardScaler has no predict"):
        save(StandardScaler().fit(X), X, work=tmp_path)


def test_times_are_refused_by_the_name_of_their_column(tmp_path: Path) -> None:
    rows = {"when": np.array(["2026-01-01"] * 3, dtype="datetime64[D]"), "a": np.zeros(3)}
    with pytest.raises(TypeError, match="'when' holds times"):
        save(LinearRegression().fit(X[:, :2], Z), rows, work=tmp_path)


def test_training_that_was_stopped_early_answers_as_then(tmp_path: Path) -> None:
    noise = (Z + RNG.normal(size=len(Z)) * 5 > 0).astype(int)
    model = xgboost.XGBClassifier(n_estimators=60, early_stopping_rounds=2, learning_rate=1.0)
    model.fit(X[:150], noise[:150], eval_set=[(X[150:], noise[150:])], verbose=False)
    assert model.best_iteration + 1 < model.get_booster().num_boosted_rounds()
    (tmp_path / "object").mkdir()
    found = answers(save(model, X, work=tmp_path), tmp_path / "object", {"x": X})
    np.testing.assert_allclose(found["probability"], model.predict_proba(X), atol=1e-6)
    model.save_model(tmp_path / "own.json")
    (tmp_path / "path").mkdir()
    saved = save(tmp_path / "own.json", X, work=tmp_path)
    found = answers(saved, tmp_path / "path", {"x": X})
    np.testing.assert_allclose(found["probability"], model.predict_proba(X), atol=1e-6)


def test_another_missing_value_is_one_when_served(tmp_path: Path) -> None:
    gaps = np.where(RNG.random(X.shape) < 0.2, -999.0, X)
    model = xgboost.XGBClassifier(n_estimators=5, missing=-999.0).fit(gaps, Y)
    found = answers(save(model, gaps, work=tmp_path), tmp_path, {"x": gaps})
    np.testing.assert_allclose(found["probability"], model.predict_proba(gaps), atol=1e-6)


@pytest.mark.parametrize("classifies", [True, False])
def test_a_booster_of_xgboost_without_its_estimator(tmp_path: Path, classifies: bool) -> None:
    objective = "binary:logistic" if classifies else "reg:squarederror"
    trained = xgboost.train({"objective": objective}, xgboost.DMatrix(X, Y), 5)
    saved = save(trained, X, work=tmp_path)
    assert described(saved)["runtime"] == "xgboost"
    found = answers(saved, tmp_path, {"x": X})
    values = found["probability"][:, 1] if classifies else found["prediction"]
    np.testing.assert_allclose(values, trained.predict(xgboost.DMatrix(X)), atol=1e-6)


def test_a_linear_booster_of_xgboost(tmp_path: Path) -> None:
    model = xgboost.XGBRegressor(booster="gblinear", n_estimators=5).fit(X, Z)
    found = answers(save(model, X, work=tmp_path), tmp_path, {"x": X})
    np.testing.assert_allclose(found["prediction"], model.predict(X), rtol=1e-5)


class Ranked:
    """Compares the rows of a call with each other."""

    def predict(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
        return {"rank": inputs["x"][:, 0].argsort().argsort()}


class Resampled:
    def predict(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
        return {"y": inputs["signal"][:: int(inputs["every"])], "n": np.array(3)}


@pytest.mark.parametrize(
    ("model", "example", "shapes"),
    [
        (Ranked(), X, [[-1, -1, 4], [-1, -1]]),
        (
            Resampled(),
            {"signal": np.arange(9.0), "every": np.array(3)},
            [[-1, -1], [-1], [-1, -1], [-1]],
        ),
    ],
)
def test_an_object_that_takes_no_rows(
    model: Any, example: Any, shapes: list[list[int]], tmp_path: Path
) -> None:
    saved = save(model, example, work=tmp_path)
    said = described(saved)
    assert said["options"] == {"batch": "whole"}
    tensors = [*said["signature"]["inputs"], *said["signature"]["outputs"]]
    assert [one["shape"] for one in tensors] == shapes
    golden = json.loads(saved.content("example.json"))
    assert {len(rows) for rows in [*golden["inputs"].values(), *golden["outputs"].values()]} == {1}
    with pytest.raises(TypeError, match="can't have a reference"):
        save(model, example, reference=example, work=tmp_path)


def test_an_object_that_answers_rows_keeps_them(tmp_path: Path) -> None:
    class Sums:
        def predict(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
            return {"y": inputs["x"].sum(axis=1)}

    said = described(save(Sums(), X, work=tmp_path))
    assert said["options"] == {}
    assert said["signature"]["inputs"][0]["features"] == ["f0", "f1", "f2", "f3"]
