"""What each source finds and takes, without a server: real files of the real tools."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import tarfile
import zipfile
from pathlib import Path

import joblib
import lightgbm
import numpy as np
import pytest
import xgboost
from sklearn.linear_model import LogisticRegression

from modelfleet.client.errors import ClientError
from modelfleet.core.archives import ArchiveRefused
from modelfleet.importing import Attention, Found, Item, Refused, pickled
from modelfleet.importing.files import Files, read_map
from modelfleet.importing.kserve import KServe
from modelfleet.importing.triton import Triton

DATA = Path(__file__).parents[1] / "data" / "importing"
X = np.random.default_rng(0).normal(size=(60, 4))
Y = (X[:, 0] > 0).astype(int)


def only(source: Files | Triton | KServe, work: Path) -> tuple[Item, Found]:
    (item,) = source.items()
    found = source.take(item, work)
    assert isinstance(found, Found)
    return item, found


def packed(path: Path, **files: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name.replace("__", "/").replace("_dot_", "."))
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def test_pickles_are_named_by_their_file_or_folder(tmp_path: Path) -> None:
    for name in ("churn/model.pkl", "price.joblib", "old/rank.sav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(pickle.dumps(LogisticRegression().fit(X, Y)))
    (tmp_path / "notes.txt").write_text("nothing")
    items = list(Files([tmp_path], base=tmp_path).items())
    assert [item.model for item in items] == ["churn", "rank", "price"]
    assert [item.key for item in items] == [
        "files:churn/model.pkl",
        "files:old/rank.sav",
        "files:price.joblib",
    ]


@pytest.mark.parametrize("form", ["yaml", "csv"])
def test_a_map_tells_more(tmp_path: Path, form: str) -> None:
    joblib.dump(LogisticRegression().fit(X, Y), tmp_path / "a.joblib")
    np.save(tmp_path / "rows.npy", X[:5])
    told = tmp_path / f"models.{form}"
    if form == "yaml":
        told.write_text(
            "models:\n- path: a.joblib\n  name: churn\n  team: growth\n  version: '2.1'\n"
            "  requirements: [scikit-learn==1.9.1, numpy]\n  example: rows.npy\n"
        )
    else:
        told.write_text(
            "path,name,team,version,requirements,example,python\n"
            "a.joblib,churn,growth,2.1,scikit-learn==1.9.1; numpy,rows.npy,\n"
        )
    source = Files([tmp_path / "a.joblib"], told=read_map(told))
    item, found = only(source, tmp_path / "work")
    assert (item.model, item.version) == ("churn", "2.1.0")
    assert source.model_facts("churn")["team"] == "growth"
    assert found.requirements == ["scikit-learn==1.9.1", "numpy"]
    assert np.asarray(found.example).shape == (5, 4)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("m.yaml", "- path: a\n  nmae: b\n", "nmae"),
        ("m.yaml", "- {", "m.yaml"),
        ("m.yaml", "just text", "m.yaml"),
        ("m.csv", "name\nchurn\n", "path"),
    ],
)
def test_bad_maps(tmp_path: Path, name: str, content: str, said: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ClientError, match=said):
        read_map(tmp_path / name)


def test_a_map_of_what_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text("- path: gone.pkl\n")
    with pytest.raises(ClientError, match="not there"):
        list(Files([tmp_path], told=read_map(tmp_path / "m.yaml")).items())


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"x")
    source = Files([tmp_path / "a.bin"])
    (item,) = source.items()
    with pytest.raises(Refused, match="none of what"):
        source.take(item, tmp_path / "work")


def test_sagemaker(tmp_path: Path) -> None:
    stream = io.BytesIO()
    joblib.dump(LogisticRegression().fit(X, Y), stream)
    script = b"def input_fn(a, b):\n    pass\n"
    packed(
        tmp_path / "churn" / "model.tar.gz",
        model_dot_joblib=stream.getvalue(),
        code__inference_dot_py=script,
        code__requirements_dot_txt=b"scikit-learn==1.9.1\n",
    )
    item, found = only(Files([tmp_path]), tmp_path / "work")
    assert item.model == "churn"
    assert found.path.name == "model.joblib"
    assert "scikit-learn==1.9.1" in (found.requirements or ())
    assert found.notes == [
        "inference.py has input_fn, which are not taken over: the model itself answers"
    ]


def test_sagemakers_xgboost(tmp_path: Path) -> None:
    model = xgboost.XGBClassifier(n_estimators=2).fit(X, Y)
    for ending in ("json", "ubj"):
        model.save_model(tmp_path / f"m.{ending}")
        content = {"xgboost-model": (tmp_path / f"m.{ending}").read_bytes()}
        archive = packed(tmp_path / ending / "model.tar.gz", **content)
        _, found = only(Files([archive]), tmp_path / f"work-{ending}")
        assert found.path.suffix == f".{ending}"
    old = packed(tmp_path / "old" / "model.tar.gz", **{"xgboost-model": b"binf" + bytes(50)})
    source = Files([old])
    with pytest.raises(Attention, match="old binary format"):
        source.take(next(source.items()), tmp_path / "work-old")


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"a_dot_joblib": b"x", "b_dot_joblib": b"x"}, "several models"),
        ({"readme": b"x"}, "no model"),
    ],
)
def test_sagemaker_archives_that_need_attention(
    tmp_path: Path, files: dict[str, bytes], reason: str
) -> None:
    source = Files([packed(tmp_path / "model.tar.gz", **files)])
    with pytest.raises(Attention, match=reason):
        source.take(next(source.items()), tmp_path / "work")


def test_a_bad_archive_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    archive = packed(tmp_path / "in" / "model.tar.gz", **{"../evil": b"x"})
    source = Files([archive])
    with pytest.raises(ArchiveRefused):
        source.take(next(source.items()), tmp_path / "work")
    assert not (tmp_path / "evil").exists()
    assert list((tmp_path / "work").iterdir()) == []


def test_torchserve(tmp_path: Path) -> None:
    item, found = only(Files([DATA / "net.mar"]), tmp_path / "work")
    assert (item.model, found.kind) == ("net", "torch")
    assert "image_classifier is not taken over" in found.notes[0]
    _, found = only(Files([DATA / "weights.mar"]), tmp_path / "work2")
    assert (found.class_name, found.code and found.code.name) == ("Net", "net.py")


@pytest.mark.parametrize(
    ("manifest", "error"),
    [
        ({"model": {"serializedFile": "../../etc/passwd"}}, ArchiveRefused),
        ({"model": {"serializedFile": "gone.pt"}}, ArchiveRefused),
        ({"model": {}}, Attention),
        ([], Refused),
    ],
)
def test_bad_manifests(tmp_path: Path, manifest: object, error: type[Exception]) -> None:
    with zipfile.ZipFile(tmp_path / "a.mar", "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
    source = Files([tmp_path / "a.mar"])
    with pytest.raises(error):
        source.take(next(source.items()), tmp_path / "work")


def test_bentoml(tmp_path: Path) -> None:
    item, found = only(Files([DATA / "churn.bentomodel"]), tmp_path / "work")
    assert (item.model, found.kind, found.path.name) == ("churn", "sklearn", "saved_model.pkl")
    assert "scikit-learn==1.9.1" in (found.requirements or ())
    assert found.tags == {"team": "growth"}
    assert found.metrics == {"auc": 0.91}
    assert found.parameters["by"] == "ann"
    pickled.check(found.path, unlisted=False)


def test_keras_with_code_inside_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.keras", "w") as archive:
        archive.writestr("metadata.json", "{}")
        archive.writestr("config.json", '{"layers": [{"class_name": "Lambda"}]}')
    source = Files([tmp_path / "a.keras"])
    with pytest.raises(Refused, match="Lambda"):
        source.take(next(source.items()), tmp_path / "work")
    (tmp_path / "old.h5").write_bytes(b"x")
    source = Files([tmp_path / "old.h5"])
    with pytest.raises(Attention, match=r"\.keras"):
        source.take(next(source.items()), tmp_path / "work")


@pytest.mark.parametrize(
    ("config", "error", "reason"),
    [
        ({"model_type": "bert", "architectures": ["BertModel"]}, Attention, "optimum-cli"),
        ({"model_type": "x", "auto_map": {"AutoModel": "m.Model"}}, Refused, "code of its own"),
    ],
)
def test_hugging_face(
    tmp_path: Path, config: dict[str, object], error: type[Exception], reason: str
) -> None:
    folder = tmp_path / "sentiment"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    source = Files([folder])
    (item,) = source.items()
    assert item.model == "sentiment"
    with pytest.raises(error, match=reason):
        source.take(item, tmp_path / "work")


def test_folders_with_links_that_lead_out(tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    folder.mkdir()
    (folder / "saved_model.pb").write_bytes(b"x")
    (folder / "variables").symlink_to("/etc")
    source = Files([folder])
    with pytest.raises(ArchiveRefused, match="leads out"):
        source.take(next(source.items()), tmp_path / "work")


def repository(root: Path) -> Path:
    """Triton's: a LightGBM forest, a TorchScript net, a Python backend, an ensemble."""
    with zipfile.ZipFile(DATA / "net.mar") as archive:
        script = archive.read("net.pt")
    for number in ("1", "10", "2"):
        (root / "net" / number).mkdir(parents=True)
        (root / "net" / number / "model.pt").write_bytes(script)
    (root / "net" / "config.pbtxt").write_text(
        'name: "net" # a comment\nplatform: "pytorch_libtorch"\nmax_batch_size: 8\n'
        "input [ { name: 'INPUT__0' data_type: TYPE_FP32 dims: [ 4 ] } ]\n"
        'output [ { name: "OUTPUT__0", data_type: TYPE_FP32, dims: [ 2 ] } ]\n'
    )
    (root / "forest" / "1").mkdir(parents=True)
    light = lightgbm.LGBMClassifier(n_estimators=2, verbose=-1).fit(X, Y)
    light.booster_.save_model(root / "forest" / "1" / "model.txt")
    (root / "forest" / "config.pbtxt").write_text('backend: "fil"')
    (root / "code" / "1").mkdir(parents=True)
    (root / "code" / "config.pbtxt").write_text('backend: "python"')
    (root / "both").mkdir()
    (root / "both" / "config.pbtxt").write_text('platform: "ensemble"\nensemble_scheduling { }')
    return root


def test_triton(tmp_path: Path) -> None:
    source = Triton(repository(tmp_path / "repository"))
    items = {item.key: item for item in source.items()}
    assert [item.version for item in items.values() if item.model == "net"] == [
        "1.0.0",
        "2.0.0",
        "10.0.0",
    ]
    found = source.take(items["triton:net:2"], tmp_path / "a")
    assert (found.kind, found.made_up) == ("torch", True)
    assert isinstance(found.example, dict)
    assert found.example["INPUT__0"].shape == (16, 4)
    assert source.take(items["triton:forest:1"], tmp_path / "b").path.name == "model.txt"
    for name, reason in (("code", "Python backend"), ("both", "pipeline")):
        with pytest.raises(Attention, match=reason):
            source.take(items[f"triton:{name}:1"], tmp_path / name)


def test_tritons_warm_up_is_the_example(tmp_path: Path) -> None:
    root = repository(tmp_path / "repository")
    for name in ("forest", "code", "both", "net/1", "net/10"):
        shutil.rmtree(root / name)
    config = root / "net" / "config.pbtxt"
    config.write_text(
        config.read_text()
        + """model_warmup [ { name: "a" batch_size: 3 inputs { key: "INPUT__0" value: {
        data_type: TYPE_FP32 dims: 4 input_data_file: "rows" } } } ]"""
    )
    (root / "net" / "warmup").mkdir()
    (root / "net" / "warmup" / "rows").write_bytes(np.arange(4, dtype=np.float32).tobytes())
    _, found = only(Triton(root), tmp_path / "a")
    assert isinstance(found.example, dict)
    assert found.example["INPUT__0"].tolist() == [[0, 1, 2, 3]] * 3
    assert not found.made_up
    config.write_text(config.read_text().replace('"rows"', '"../../../../etc/passwd"'))
    with pytest.raises(Attention, match="not there"):
        only(Triton(root), tmp_path / "b")
    config.write_text("input [ {")
    with pytest.raises(Attention, match=r"config\.pbtxt"):
        only(Triton(root), tmp_path / "c")


MANIFEST = """
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata: {name: iris, namespace: ml, labels: {tier: gold}}
spec:
  predictor:
    model:
      modelFormat: {name: sklearn}
      storageUri: pvc://models/iris
  transformer: {containers: []}
---
kind: InferenceService
metadata: {name: remote}
spec: {predictor: {sklearn: {storageUri: 's3://bucket/iris'}}}
---
kind: InferenceService
metadata: {name: own}
spec: {predictor: {containers: [{image: own}]}}
---
kind: InferenceService
metadata: {name: escape}
spec: {predictor: {sklearn: {storageUri: 'pvc://models/../../etc'}}}
---
kind: Service
metadata: {name: other}
"""


def test_kserve(tmp_path: Path) -> None:
    (tmp_path / "volume" / "iris").mkdir(parents=True)
    joblib.dump(LogisticRegression().fit(X, Y), tmp_path / "volume" / "iris" / "model.joblib")
    (tmp_path / "a.yaml").write_text(MANIFEST)
    source = KServe([tmp_path / "a.yaml"], {"pvc://models": tmp_path / "volume"})
    items = {item.model: item for item in source.items()}
    assert set(items) == {"iris", "remote", "own", "escape"}
    found = source.take(items["iris"], tmp_path / "work")
    assert found.path.name == "model.joblib"
    assert found.notes == ["its transformer is not taken over"]
    assert source.model_facts("iris")["tags"] == {"kserve.namespace": "ml", "tier": "gold"}
    for name, reason in (
        ("remote", "--storage s3://bucket=FOLDER"),
        ("own", "no storageUri"),
        ("escape", "leads out"),
    ):
        with pytest.raises(Attention, match=reason):
            source.take(items[name], tmp_path / f"work-{name}")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(ClientError, match="can't be read"):
        list(KServe([tmp_path / "bad.yaml"], {}).items())
