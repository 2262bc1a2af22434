"""Benign models are clean; what executes on load is never called so, and never executed here."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import pickle
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import joblib
import lightgbm
import numpy as np
import pytest
import xgboost
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

from modelfleet.core.scan import Verdict, scan

X = np.abs(np.random.default_rng(0).normal(size=(60, 3)))
Y = (X[:, 0] > 0.6).astype(int)
MODELS = {
    "linear": LogisticRegression(),
    "pipeline": make_pipeline(
        FunctionTransformer(np.log1p), StandardScaler(), LogisticRegression()
    ),
    "columns": ColumnTransformer([("one", OneHotEncoder(), [0]), ("rest", StandardScaler(), [1])]),
    "forest": RandomForestClassifier(3),
    "boosted": HistGradientBoostingClassifier(max_iter=3),
    "searched": GridSearchCV(LogisticRegression(), {"C": [0.1, 1]}, cv=2),
    "light": lightgbm.LGBMClassifier(n_estimators=3, verbose=-1),
    "extreme": xgboost.XGBClassifier(n_estimators=3),
}


@pytest.mark.parametrize("name", list(MODELS))
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_models_are_clean(tmp_path: Path, name: str, protocol: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = MODELS[name].fit(X, Y)
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(model, protocol))
    found = scan(path)
    assert (found.verdict, found.unknown) == (Verdict.CLEAN, ()), found.reason
    for compress in (0, 3, ("gzip", 3), ("bz2", 3), ("xz", 3), ("lzma", 3)):
        joblib.dump(model, path, compress=compress, protocol=max(protocol, 2))
        found = scan(path)
        assert found.verdict is Verdict.CLEAN, (compress, found.reason)
    assert found.root.endswith(type(model).__name__)


def test_it_tells_features_and_versions(tmp_path: Path) -> None:
    import sklearn

    joblib.dump(LogisticRegression().fit(X, Y), tmp_path / "a.joblib")
    found = scan(tmp_path / "a.joblib")
    assert found.features == 3
    assert f"scikit-learn=={sklearn.__version__}" in found.requirements
    assert any(one.startswith("numpy") for one in found.requirements)


class Evil:
    def __init__(self, call: Callable[..., object], *arguments: object) -> None:
        self.call = (call, arguments)

    def __reduce__(self) -> Any:
        return self.call


def _system(folder: Path) -> Evil:
    import os

    return Evil(os.system, f"touch {folder / 'executed'}")


def inst(module: str, name: str) -> bytes:
    return b"(S'touch x'\ni" + f"{module}\n{name}\n".encode() + b"."


RAW = {
    "GLOBAL + REDUCE": b"cos\nsystem\n(S'touch x'\ntR.",
    "INST": inst("os", "system"),
    "OBJ": b"(cos\nsystem\nS'touch x'\no.",
    "alias of a module": b"cposix\nsystem\n(S'touch x'\ntR.",
    "dotted walk": b"\x80\x04\x8c\x07sklearn\x8c\x0ebase.os.system\x93(\x8c\x07touch xtR.",
    "attribute of an allowed module": b"cnumpy\nload\n(S'x'\ntR.",
    "numpy's runner": b"cnumpy.testing._private.utils\nrunstring\n(S'x'\n}tR.",
    "getattr": b"c__builtin__\ngetattr\n(cnumpy\nndarray\nS'tofile'\ntR.",
    "import": b"cimportlib\nimport_module\n(S'x'\ntR.",
    "pip": b"cpip._internal.cli.main\nmain\n(]S'x'\natR.",
    "prefix of an allowed name": b"csklearn.linear_model._logistic\nLogisticRegressionX\n)R.",
    "another sklearn function": b"csklearn.datasets\nload_files\n(S'x'\ntR.",
    "joblib's loader": b"cjoblib\nload\n(S'x'\ntR.",
    "builtins exec": b"\x80\x04\x8c\x08builtins\x8c\x04exec\x93\x8c\x01x\x85R.",
    "extension": b"\x80\x02\x82\x01.",
    "computed name": b"\x80\x04\x8c\x08builtins(cbuiltins\nstr\n)R\x93.",
}


@pytest.mark.parametrize("name", list(RAW))
@pytest.mark.parametrize(
    "packed",
    [
        lambda content: content,
        zlib.compress,
        gzip.compress,
        bz2.compress,
        lzma.compress,
        lambda content: gzip.compress(zlib.compress(content)),
    ],
    ids=["plain", "zlib", "gzip", "bz2", "xz", "twice"],
)
def test_what_executes_is_not_clean(
    tmp_path: Path, name: str, packed: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(packed(RAW[name]))
    assert scan(path).verdict is not Verdict.CLEAN


def test_hidden_behind_a_benign_model(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(LogisticRegression().fit(X, Y)) + RAW["GLOBAL + REDUCE"])
    assert scan(path).verdict is Verdict.DAMAGED


def test_hidden_in_an_array_of_objects(tmp_path: Path) -> None:
    model = LogisticRegression().fit(X, Y)
    model.extra = np.array([_system(tmp_path), None], dtype=object)
    for compress in (0, 3):
        joblib.dump(model, tmp_path / "a.joblib", compress=compress)
        found = scan(tmp_path / "a.joblib")
        assert found.verdict is Verdict.HARMFUL
        assert "posix.system" in found.harmful
    assert not (tmp_path / "executed").exists()


def wrapped(dtype: str, state: object, data: bytes, **changed: object) -> bytes:
    """A joblib array with that dtype, `data` where its bytes should be."""
    import io

    from joblib.numpy_pickle import NumpyArrayWrapper

    class Named:
        def __reduce__(self) -> Any:
            return (np.dtype, (dtype, False, True), state) if state else (np.dtype, (dtype,))

    wrapper = NumpyArrayWrapper(np.ndarray, (1,), "C", np.dtype("f8"))
    wrapper.__dict__ |= {"dtype": Named(), "numpy_array_alignment_bytes": None} | changed
    stream = io.BytesIO()
    pickle.Pickler(stream, 2).dump(wrapper)
    return stream.getvalue()[:-1] + data + b"."


def test_arrays_that_are_no_arrays(tmp_path: Path) -> None:
    """What NumPy would take for objects, or for another size, is not skipped as plain bytes."""
    evil = RAW["GLOBAL + REDUCE"]
    objects = np.dtype([("a", "O")]).__reduce__()[2]
    size = len(evil)
    path = tmp_path / "a.joblib"
    good = {"f8": (None, 8), "V16": (np.dtype([("a", "f8"), ("b", "i8")]).__reduce__()[2], 16)}
    for dtype, (state, count) in good.items():
        path.write_bytes(wrapped(dtype, state, bytes(count)))
        assert scan(path).verdict is Verdict.CLEAN, dtype
    bad = {
        "records of objects": wrapped(f"V{size}", (*objects[:5], size, *objects[6:]), evil),
        "flagged": wrapped(f"V{size}", (3, "|", None, (), {}, size, 1, 63), evil),
        "another size": wrapped(f"S{size}", (3, "|", None, None, None, 1, 1, 0), evil),
        "objects": wrapped("O8", None, evil),
        "no size": wrapped("V", None, evil),
        "strange state": wrapped("f8", (9, "<"), bytes(8)),
        "negative": wrapped("f8", None, b"", shape=(-1,)),
    }
    for name, content in bad.items():
        path.write_bytes(content)
        assert scan(path).verdict in (Verdict.DAMAGED, Verdict.HARMFUL), name
    path.write_bytes(wrapped("O8", None, evil))
    assert scan(path).verdict is Verdict.HARMFUL


def test_a_second_state_is_not_taken_for_an_array(tmp_path: Path) -> None:
    content = wrapped("f8", None, bytes(8))[:-1] + b"}b" + bytes(8) + b"."
    (tmp_path / "a.joblib").write_bytes(content)
    assert scan(tmp_path / "a.joblib").verdict is not Verdict.CLEAN


def test_hidden_in_torchs_archive(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", pickle.dumps(_system(tmp_path), 2))
        archive.writestr("model/data/0", b"\0" * 8)
    assert scan(path).verdict is Verdict.HARMFUL
    path.write_bytes(b"GIF89a" + path.read_bytes())
    assert scan(path).verdict is Verdict.DAMAGED


def test_own_classes_are_unknown_and_named(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(Evil(print)))
    (tmp_path / "b.pkl").write_bytes(cloudpickle.dumps(lambda rows: rows))
    found = scan(tmp_path / "b.pkl")
    assert found.verdict is Verdict.UNKNOWN
    assert "code of its own" in found.reason
    assert any(one.startswith("cloudpickle.cloudpickle.") for one in found.unknown)
    content = pickle.dumps(LogisticRegression().fit(X, Y), 0)
    (tmp_path / "c.pkl").write_bytes(content.replace(b"sklearn.linear", b"ourthing.linear"))
    found = scan(tmp_path / "c.pkl")
    assert found.verdict is Verdict.UNKNOWN
    assert "ourthing.linear_model._logistic.LogisticRegression" in found.unknown


def test_a_version_without_a_list_is_unknown(tmp_path: Path) -> None:
    model = LogisticRegression().fit(X, Y)
    content = pickle.dumps(model, 4)
    said = content[content.index(b"_sklearn_version") + 17 :]
    version = said[said.index(b"\x8c") + 2 :][: said[said.index(b"\x8c") + 1]]
    (tmp_path / "a.pkl").write_bytes(content.replace(version, b"9.9.9"[: len(version)]))
    found = scan(tmp_path / "a.pkl")
    assert found.verdict is Verdict.UNKNOWN
    assert "no list for scikit-learn 9.9" in found.reason


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"rubbish",
        pickle.dumps(LogisticRegression())[:-4],
        b"\x80\x05" + b"(" * 100_000 + b".",
        b"\x80\x04\x95" + struct.pack("<Q", 1 << 62) + b".",
        b"\x8e" + struct.pack("<Q", 1 << 40) + b"x.",
        gzip.compress(pickle.dumps(1), mtime=0)[:-6],
        b"0.",
        b"PK\x03\x04rubbish",
    ],
)
def test_damage_is_an_answer(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.pkl").write_bytes(content)
    assert scan(tmp_path / "a.pkl").verdict is Verdict.DAMAGED


def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from modelfleet.core.scan import containers

    monkeypatch.setattr(containers, "MAX_BYTES", 1 << 20)
    for packed in (zlib.compress, gzip.compress, bz2.compress, lzma.compress):
        (tmp_path / "a.pkl").write_bytes(packed(pickle.dumps(bytes(2 << 20))))
        found = scan(tmp_path / "a.pkl")
        assert (found.verdict, "2 GiB" in found.reason) == (Verdict.DAMAGED, True)
    content = pickle.dumps(1)
    for _ in range(6):
        content = gzip.compress(content, mtime=0)
    (tmp_path / "b.pkl").write_bytes(content)
    assert "too often" in scan(tmp_path / "b.pkl").reason


def test_nothing_is_imported(tmp_path: Path) -> None:
    import sys

    stream = io.BytesIO()
    pickle.dump(1, stream)
    (tmp_path / "a.pkl").write_bytes(b"cantigravity\nfly_to\n)R.")
    assert scan(tmp_path / "a.pkl").verdict is Verdict.UNKNOWN
    assert "antigravity" not in sys.modules
