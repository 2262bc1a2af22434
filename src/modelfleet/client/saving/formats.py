"""What a path holds, and the draft of a bundle for it."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

from modelfleet.client.errors import ClientError
from modelfleet.client.saving import mlflow, pickles
from modelfleet.client.saving.drafts import Code, Draft
from modelfleet.client.saving.installed import is_here, pinned

KNOWN = """Known are: a folder in MLflow's format (MLmodel), a TensorFlow SavedModel, a bundle
(bundle.json); .onnx, .cbm and .json (CatBoost), .keras, .pt2 (torch.export), .pt (TorchScript, or
a state dict with its source), .ubj, .json and .model (XGBoost), .txt (LightGBM), .joblib, .pkl and
.skops."""
_TENSORFLOW = ("tensorflow", "tensorflow-cpu")


def detect(path: Path) -> str:
    """The kind of model: a runtime's name, or `bundle`. `ClientError` if it can't be told."""
    if not path.exists():
        raise ClientError(f"There is no {path}.")
    found = _of_folder(path) if path.is_dir() else _of_file(path)
    if found is None:
        known = KNOWN.replace("\n", " ")
        raise ClientError(f"{path.name} is no model that is known here. {known}")
    return found


def _of_folder(path: Path) -> str | None:
    for name, kind in (("MLmodel", "mlflow"), ("bundle.json", "bundle")):
        if (path / name).exists():
            return kind
    if (path / "saved_model.pb").exists():
        return "tensorflow"
    return "onnx" if len(list(path.glob("*.onnx"))) == 1 else None


def _of_file(path: Path) -> str | None:
    ending = path.suffix.lower()
    if ending in (".h5", ".hdf5"):
        raise ClientError(f"{path.name} is in an old format of Keras: save it as .keras.")
    if ending == ".pb":
        raise ClientError(f"{path.name} is part of a SavedModel: pass its folder.")
    simple = {".onnx": "onnx", ".cbm": "catboost", ".keras": "keras", ".ubj": "xgboost"}
    simple |= {".pt2": "torch", ".skops": "sklearn"}
    if ending in simple:
        return simple[ending]
    if ending in (".pt", ".pth", ".ts", ".torchscript", ".jit", ".ckpt"):
        return "torch"
    if ending in (".joblib", ".pkl", ".pickle"):
        return pickles.kind(path)
    if ending == ".txt":
        return "lightgbm" if path.read_bytes()[:5] == b"tree\n" else None
    if ending == ".json":
        return _of_json(path)
    if ending in (".model", ".lgb"):
        return "lightgbm" if path.read_bytes()[:5] == b"tree\n" else "xgboost"
    return None


def _of_json(path: Path) -> str | None:
    content = path.read_bytes()
    if b'"oblivious_trees"' in content or b'"catboost_version_info"' in content:
        return "catboost"
    return "xgboost" if b'"learner"' in content else None


def draft(path: Path, kind: str | None, code: Code, folder: Path) -> Draft:
    """The draft for a path. `ClientError` says what is missing."""
    if not path.exists():
        raise ClientError(f"There is no {path}.")
    chosen = kind or detect(path)
    if chosen not in _DRAFTS:
        raise ClientError(f"{chosen!r} is no kind of model; known: {', '.join(sorted(_DRAFTS))}.")
    return _DRAFTS[chosen](path, code, folder)


def _copy(path: Path, folder: Path, name: str | None = None) -> str:
    target = folder / "files" / (name or path.name)
    if path.is_dir():
        shutil.copytree(path, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copyfile(path, target)
    return target.name


def _onnx(path: Path, _: Code, folder: Path) -> Draft:
    weights = [path.with_name(path.name + end) for end in (".data", "_data")]
    weights = [one for one in weights if one.exists()]
    if weights:  # they are found beside the graph
        (folder / "files" / "graph").mkdir()
        for one in (path, *weights):
            shutil.copyfile(one, folder / "files" / "graph" / one.name)
        return Draft(folder, "onnx", "graph", pinned("numpy", "onnxruntime"))
    name = "graph" if path.is_dir() else "model.onnx"
    return Draft(folder, "onnx", _copy(path, folder, name), pinned("numpy", "onnxruntime"))


def _catboost(path: Path, _: Code, folder: Path) -> Draft:
    copied = _copy(path, folder, "model.json" if path.suffix == ".json" else "model.cbm")
    return Draft(folder, "catboost", copied, pinned("numpy", "catboost"))


def _xgboost(path: Path, _: Code, folder: Path) -> Draft:
    ending = path.suffix if path.suffix in (".ubj", ".json") else ".ubj"
    copied = _copy(path, folder, f"model{ending}")
    return Draft(folder, "xgboost", copied, pinned("numpy", xgboost_distribution()))


def xgboost_distribution() -> str:
    """The one without CUDA's libraries if it is installed."""
    return "xgboost-cpu" if pinned("xgboost-cpu") != ("xgboost-cpu",) else "xgboost"


def _lightgbm(path: Path, _: Code, folder: Path) -> Draft:
    return Draft(folder, "lightgbm", _copy(path, folder, "model.txt"), pinned("numpy", "lightgbm"))


def _sklearn(path: Path, _: Code, folder: Path) -> Draft:
    needed = pinned("numpy", "scikit-learn", *pickles.distributions(path))
    return Draft(folder, "sklearn", _copy(path, folder, f"model{path.suffix}"), needed)


def _python(path: Path, _: Code, folder: Path) -> Draft:
    needed = pinned("numpy", "cloudpickle", *pickles.distributions(path))
    return Draft(folder, "python", _copy(path, folder, "model.pkl"), needed)


def tensorflow_distribution() -> str:
    """The one that is installed, else the smaller one."""
    here = [name for name in _TENSORFLOW if pinned(name) != (name,)]
    return here[0] if here else "tensorflow-cpu"


def _tensorflow(path: Path, _: Code, folder: Path) -> Draft:
    if not (path / "saved_model.pb").exists():
        raise ClientError(f"{path.name} holds no saved_model.pb.")
    needed = pinned("numpy", tensorflow_distribution())
    return Draft(folder, "tensorflow", _copy(path, folder, "model"), needed)


def _keras(path: Path, code: Code, folder: Path) -> Draft:
    try:
        with zipfile.ZipFile(path) as archive:
            said = json.loads(archive.read("metadata.json"))
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise ClientError(f"{path.name} is no .keras archive.") from error
    version = said.get("keras_version")
    keras = pinned("keras") if is_here("keras") else (f"keras=={version}" if version else "keras",)
    options: dict[str, object] = {}
    if code.source is not None:
        options["source"] = code.copy_into(folder / "files")
    needed = (*pinned("numpy", keras_backend()), *keras)
    return Draft(folder, "keras", _copy(path, folder, "model.keras"), needed, options)


def keras_backend() -> str:
    """What Keras computes with: what is installed here, else TensorFlow."""
    if is_here("keras") and not is_here("tensorflow"):
        for module in ("torch", "jax"):
            if is_here(module):
                return module
    return tensorflow_distribution()


def _torch(path: Path, code: Code, folder: Path) -> Draft:
    form = _torch_form(path)
    options: dict[str, object] = {"form": form}
    if form == "state_dict":
        if code.source is None or not code.class_name:
            raise ClientError(
                f"{path.name} holds weights without code: name the Python file (source) "
                "and the class (class_name) of the module, or export it with torch.export."
            )
        options |= code_options(code, folder)
    ending = ".pt2" if form == "export" else ".pt"
    copied = _copy(path, folder, f"model{ending}")
    return Draft(folder, "torch", copied, pinned("numpy", "torch"), options)


def code_options(code: Code, folder: Path) -> dict[str, object]:
    return {
        "source": code.copy_into(folder / "files"),
        "class": code.class_name,
        "arguments": dict(code.arguments),
    }


def _torch_form(path: Path) -> str:
    if not zipfile.is_zipfile(path):
        raise ClientError(f"{path.name} is no PyTorch archive (an older one? save it again).")
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any(
        name.endswith(("models/model.json", "serialized_exported_program.json")) for name in names
    ):
        return "export"
    return "script" if any("/code/" in name for name in names) else "state_dict"


_DRAFTS: dict[str, Callable[[Path, Code, Path], Draft]] = {
    "onnx": _onnx,
    "catboost": _catboost,
    "xgboost": _xgboost,
    "lightgbm": _lightgbm,
    "sklearn": _sklearn,
    "python": _python,
    "tensorflow": _tensorflow,
    "keras": _keras,
    "torch": _torch,
    "mlflow": mlflow.draft,
}
