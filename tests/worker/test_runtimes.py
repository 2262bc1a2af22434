from __future__ import annotations

import pickle
import sys
import types
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pytest
import xgboost
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression

from modelfleet_worker import loading, runtimes
from modelfleet_worker.runtimes import boosters
from modelfleet_worker.runtimes.base import Conformer, LoadError, ModelFault
from modelfleet_worker.wire.bundle import BundleCorrupt
from modelfleet_worker.wire.desired import VersionSpec
from modelfleet_worker.wire.signature import infer
from modelfleet_worker.wire.spec import read_spec

RNG = np.random.default_rng(5)
X = RNG.normal(size=(300, 4))
LABEL = (X[:, 0] * X[:, 1] > 0).astype(np.int64)
CLASSES = {"label": LABEL[:5], "probability": np.zeros((5, 2))}


def predict(made: tuple[Path, str], x: Any = X[:5]) -> Any:
    folder, _ = made
    spec = read_spec(folder)
    inputs = x if isinstance(x, dict) else {"x": x}
    outputs = runtimes.load(folder, spec).predict(inputs)
    arrays = Conformer(spec.signature).apply(outputs, len(next(iter(inputs.values()))))
    return dict(zip([output.name for output in spec.signature.outputs], arrays, strict=True))


def load(made: tuple[Path, str], digest: str = "") -> loading.Loaded:
    folder, own = made
    return loading.load(VersionSpec(1, "m", "1.0.0", 1, digest or own, str(folder)))


def test_sklearn_forest_gives_label_and_probability(bundles: Any) -> None:
    names = np.where(LABEL, "late", "in time")
    model = RandomForestClassifier(7, random_state=1).fit(X, names)
    outputs = {**CLASSES, "label": names[:5].astype(object)}
    both = "predict+predict_proba"
    made = bundles.write("f", "sklearn", pickle.dumps(model), {"x": X[:5]}, outputs, both)
    found = predict(made)
    assert found["label"].tolist() == model.predict(X[:5]).tolist()
    assert np.array_equal(found["probability"], model.predict_proba(X[:5]))


def test_sklearn_takes_columns(bundles: Any) -> None:
    model = LinearRegression().fit(X, X[:, 0])
    columns = {name: X[:5, k] for k, name in enumerate("abcd")}
    made = bundles.write("r", "sklearn", pickle.dumps(model), columns, {"prediction": np.zeros(5)})
    assert np.allclose(predict(made, columns)["prediction"], X[:5, 0])


def test_lightgbm_booster(bundles: Any) -> None:
    model = lightgbm.LGBMClassifier(n_estimators=5, verbose=-1).fit(X, LABEL)
    content = model.booster_.model_to_string().encode()
    made = bundles.write("l", "lightgbm", content, {"x": X[:5]}, CLASSES, "predict+predict_proba")
    found = predict(made)
    assert np.allclose(found["probability"], model.predict_proba(X[:5]))
    assert found["label"].tolist() == model.predict(X[:5]).tolist()


@pytest.mark.parametrize("classes", [2, 3])
def test_xgboost_booster(bundles: Any, classes: int) -> None:
    target = np.arange(300) % classes
    model = xgboost.XGBClassifier(n_estimators=5).fit(X, target)
    outputs = {"label": target[:5], "probability": np.zeros((5, classes))}
    content = bytes(model.get_booster().save_raw("ubj"))
    made = bundles.write("x", "xgboost", content, {"x": X[:5]}, outputs, "predict+predict_proba")
    found = predict(made)
    assert np.allclose(found["probability"], model.predict_proba(X[:5]))
    assert found["label"].tolist() == model.predict(X[:5]).tolist()


def test_categories_of_a_frame_are_text(bundles: Any, tmp_path: Path) -> None:
    codes = np.column_stack([X[:, 0], np.arange(len(X)) % 2])
    label = codes[:, 1].astype(int)
    options = {"n_estimators": 5, "verbose": -1, "min_child_samples": 1, "min_data_per_group": 1}
    model = lightgbm.LGBMClassifier(**options).fit(codes, label, categorical_feature=[1])
    text = model.booster_.model_to_string()
    text = text[: text.index("pandas_categorical")] + 'pandas_categorical:[["bern", "chur"]]\n'
    (tmp_path / "model.txt").write_text(text)
    facts = boosters.LightgbmRuntime.facts(tmp_path / "model.txt", {})
    assert facts.inputs is not None
    assert [spec.datatype for spec in facts.inputs] == ["FP64", "BYTES"]
    names = [spec.name for spec in facts.inputs]
    towns = np.array(["bern", "chur"], dtype=object)[label]
    inputs = {names[0]: codes[:, 0], names[1]: towns}
    outputs = {"label": label, "probability": np.zeros((len(X), 2))}
    made = bundles.write("c", "lightgbm", text.encode(), inputs, outputs, "predict+predict_proba")
    found = runtimes.load(made[0], read_spec(made[0])).predict(inputs)
    np.testing.assert_allclose(found["probability"], model.predict_proba(codes))


def test_categories_that_xgboost_keeps() -> None:
    kept = {"offsets": [0, 4, 8], "values": list(b"bernchur")}
    assert boosters._plain(kept) == ["bern", "chur"]
    values = np.array(["chur", "uri", None], dtype=object)
    codes = boosters._codes(values, ["bern", "chur"], False)
    assert codes[0] == 1
    assert np.isnan(codes[1:]).all()
    with pytest.raises(ModelFault, match="'uri' was not in its training data"):
        boosters._codes(values, ["bern", "chur"], True)


def test_class_names_of_boosters(bundles: Any) -> None:
    model = lightgbm.LGBMRegressor(n_estimators=3, verbose=-1, objective="binary").fit(X, LABEL)
    outputs = {"label": np.array(["no"] * 5, dtype=object), "probability": np.zeros((5, 2))}
    made = bundles.write(
        "l",
        "lightgbm",
        model.booster_.model_to_string().encode(),
        {"x": X[:5]},
        outputs,
        "predict+predict_proba",
        options={"classes": ["no", "yes"]},
    )
    found = predict(made)
    assert set(found["label"]) <= {"no", "yes"}
    assert (found["label"] == "yes").tolist() == (found["probability"][:, 1] > 0.5).tolist()


def test_onnx_casts_inside_only(bundles: Any) -> None:
    found = predict(bundles.linear_onnx(), np.array([[1.0, 2.0, 3.0, 4.0]]))
    assert found["prediction"].tolist() == [30.0]
    assert found["prediction"].dtype == np.float64


def test_python_object(bundles: Any) -> None:
    made = bundles.python("p", lambda inputs: {"y": inputs["x"].sum(axis=1)})
    assert predict(made, np.ones((2, 4)))["y"].tolist() == [4.0, 4.0]


def test_loading_proves_and_measures(bundles: Any) -> None:
    loaded = load(bundles.logistic())
    assert 0 < loaded.row_s < loaded.load_s < 30


def test_corrupt_bundles_are_found_before_the_pickle_is_read(bundles: Any, tmp_path: Path) -> None:
    folder, digest = bundles.logistic()
    trap = tmp_path / "read"

    class Trap:
        def __reduce__(self) -> Any:
            return open, (str(trap), "w")

    (folder / "files" / "artifact").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(BundleCorrupt, match="artifact"):
        load((folder, digest))
    assert not trap.exists()


def pickled_from_elsewhere(monkeypatch: pytest.MonkeyPatch, drop_module: bool) -> bytes:
    module = types.ModuleType("their_package")
    kind = type("TheirModel", (), {"__module__": "their_package"})
    module.TheirModel = kind  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "their_package", module)
    content = pickle.dumps(kind())
    if drop_module:
        monkeypatch.delitem(sys.modules, "their_package")
    else:
        del module.TheirModel  # type: ignore[attr-defined]
    return content


@pytest.mark.parametrize(
    ("drop_module", "message"),
    [(True, "needs the module 'their_package'"), (False, "TheirModel.*their_package")],
)
def test_missing_classes_are_named(
    bundles: Any, monkeypatch: pytest.MonkeyPatch, drop_module: bool, message: str
) -> None:
    content = pickled_from_elsewhere(monkeypatch, drop_module)
    made = bundles.write("m", "sklearn", content, {"x": X[:5]}, {"y": np.zeros(5)})
    with pytest.raises(LoadError, match=message):
        load(made)


@pytest.mark.parametrize(
    ("runtime", "content", "message"),
    [
        ("sklearn", b"not a pickle", "artifact is not a readable pickle"),
        ("sklearn", pickle.dumps(5), "int has no predict"),
        ("python", pickle.dumps("text"), "str has no predict"),
        ("onnx", b"no graph", "artifact: .*Protobuf"),
        ("lightgbm", b"no trees", "artifact: "),
        ("xgboost", b"no trees", "artifact.ubj: "),
    ],
)
def test_artifacts_that_are_none(bundles: Any, runtime: str, content: bytes, message: str) -> None:
    made = bundles.write("m", runtime, content, {"x": X[:5]}, {"y": np.zeros(5)})
    with pytest.raises(LoadError, match=message):
        load(made)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda inputs: {"y": np.full(2, np.nan)}, "gave 'y' 2 values of NaN"),
        (lambda inputs: {"z": np.zeros(2)}, "no output 'y'"),
        (lambda inputs: {"y": np.zeros((2, 3))}, r"'y' has the shape \[2, 3\]"),
        (lambda inputs: {"y": np.zeros(5)}, "the request has 2 rows"),
        (lambda inputs: [1, 2], "gave list instead of a dict"),
    ],
)
def test_models_that_fail_their_example(bundles: Any, answer: Any, message: str) -> None:
    with pytest.raises((LoadError, ModelFault), match=message):
        load(bundles.python("m", answer))


def test_conformer_casts_and_flattens() -> None:
    signature = infer({"x": X}, {"a": np.zeros(3), "b": np.zeros((3, 1), dtype=np.int64)})
    found = Conformer(signature).apply({"a": [[1], [2], [3]], "b": np.array([1.0, 2.0, 3.0])}, 3)
    assert found[0].tolist() == [1.0, 2.0, 3.0]
    assert found[1].tolist() == [[1], [2], [3]]
    assert found[1].dtype == np.int64
