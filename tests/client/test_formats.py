"""What a path holds, told without its framework."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from modelfleet.client.errors import ClientError
from modelfleet.client.saving import detect, read_rows, save
from modelfleet.client.saving.installed import pinned
from modelfleet.client.saving.mlflow import _python, requirements
from modelfleet.client.saving.pickles import distributions
from modelfleet.client.waiting import Line, Progress

X = np.random.default_rng(2).normal(size=(20, 2))


def archive(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as made:
        for name in names:
            made.writestr(name, "{}")
    return path


def test_files_and_folders_are_told_apart(tmp_path: Path) -> None:
    for name in ("a.onnx", "a.cbm", "a.keras", "a.pt2", "a.pt", "a.ubj", "a.skops"):
        (tmp_path / name).touch()
    (tmp_path / "a.txt").write_bytes(b"tree\nversion=v4\n")
    (tmp_path / "a.json").write_bytes(b'{"learner":{}}')
    found = {path.name: detect(path) for path in tmp_path.iterdir()}
    assert found == {
        "a.onnx": "onnx",
        "a.cbm": "catboost",
        "a.keras": "keras",
        "a.pt2": "torch",
        "a.pt": "torch",
        "a.ubj": "xgboost",
        "a.skops": "sklearn",
        "a.txt": "lightgbm",
        "a.json": "xgboost",
    }
    for marker, kind in (("MLmodel", "mlflow"), ("saved_model.pb", "tensorflow")):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / marker).touch()
        assert detect(tmp_path / kind) == kind


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("a.h5", "save it as .keras"),
        ("a.pb", "pass its folder"),
        ("a.csv", "no model that is known"),
        ("a.txt", "no model that is known"),
    ],
)
def test_what_is_none_is_told_why(tmp_path: Path, name: str, complaint: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(ClientError, match=complaint):
        detect(tmp_path / name)
    with pytest.raises(ClientError, match="There is no"):
        detect(tmp_path / "nothing")


def test_pickles_are_read_without_loading_them(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return exec, ("raise SystemExit('loaded')",)

    joblib.dump(make_pipeline(StandardScaler(), LinearRegression()), tmp_path / "a.joblib")
    (tmp_path / "b.pkl").write_bytes(pickle.dumps(Trap()))
    assert detect(tmp_path / "a.joblib") == "sklearn"
    assert detect(tmp_path / "b.pkl") == "python"
    assert distributions(tmp_path / "a.joblib") == ["joblib"]


def test_a_path_is_saved_as_the_object_is(tmp_path: Path) -> None:
    model = LinearRegression().fit(X, X[:, 0])
    joblib.dump(model, tmp_path / "a.joblib")
    saved = save(tmp_path / "a.joblib", X, work=tmp_path)
    assert set(saved.files) == {"model.joblib", "bundle.json", "example.json"}
    assert set(saved.requirements) == set(pinned("numpy", "scikit-learn", "joblib"))


def test_a_model_that_can_not_be_read_is_told_why(tmp_path: Path) -> None:
    (tmp_path / "a.ubj").write_bytes(b"rubbish")
    with pytest.raises(ClientError, match="can't be registered"):
        save(tmp_path / "a.ubj", X, work=tmp_path)


def test_weights_want_their_code(tmp_path: Path) -> None:
    archive(tmp_path / "a.pt", "a/data.pkl", "a/byteorder")
    with pytest.raises(ClientError, match="weights without code"):
        save(tmp_path / "a.pt", X, work=tmp_path)


def test_requirements_that_mlflow_recorded(tmp_path: Path) -> None:
    with pytest.raises(ClientError, match=r"no requirements\.txt"):
        requirements(tmp_path)
    (tmp_path / "requirements.txt").write_text(
        "mlflow==3.1.0\nscikit_learn==1.7.0\n# comment\n\npytest==8\npsutil==7\n"
    )
    (tmp_path / "python_env.yaml").write_text("python: 3.10.4\nbuild_dependencies:\n- pip\n")
    needed, droppable = requirements(tmp_path)
    assert "mlflow-skinny==3.1.0" in needed
    assert not any(one.startswith("mlflow==") for one in needed)
    assert "scikit_learn==1.7.0" in needed
    assert droppable == ("pytest==8", "psutil==7")
    assert _python(tmp_path) == "3.10"
    (tmp_path / "requirements.txt").write_text("-r other.txt\n")
    with pytest.raises(ClientError, match="-r other"):
        requirements(tmp_path)


def test_rows_from_files(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", X)
    assert np.array_equal(np.asarray(read_rows(tmp_path / "a.npy")), X)
    (tmp_path / "a.csv").write_text("a,b\n1,x\n,y\n")
    found: Any = read_rows(tmp_path / "a.csv")
    assert found["b"].tolist() == ["x", "y"]
    assert found["a"][0] == 1.0
    assert np.isnan(found["a"][1])
    (tmp_path / "a.json").write_text('{"a": [1, 2]}')
    assert read_rows(tmp_path / "a.json")["a"].tolist() == [1, 2]  # type: ignore[index]
    for name, text in (("b.csv", "a,b\n1\n"), ("b.json", "{"), ("b.xls", "")):
        (tmp_path / name).write_text(text)
        with pytest.raises(ClientError, match="holds no rows"):
            read_rows(tmp_path / name)


def test_a_line_is_for_terminals_only(capsys: pytest.CaptureFixture[str]) -> None:
    with Line("churn@1.0.0") as line:
        line.say("resolving")
    assert capsys.readouterr().err == ""
    assert str(Progress("downloading", 2, 7, "scipy")) == "downloading 2 of 7 (scipy)"
    assert str(Progress("resolving", 0, 5)) == "resolving 5 packages"
    assert str(Progress("checking")) == "checking"
