"""Archives of SageMaker, TorchServe and BentoML."""

from __future__ import annotations

import ast
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from modelfleet.core.archives import ArchiveRefused, extract, refuse_links
from modelfleet.importing.openers import (
    HuggingFace,
    OldKeras,
    Opener,
    Pickle,
    Plain,
    is_tar,
    is_zip,
    named,
    python_requirements,
    walk,
)
from modelfleet.importing.types import Attention, Found, Refused

INNER: tuple[Opener, ...] = (HuggingFace(), Plain(), Pickle(), OldKeras())
_HANDLERS = {"input_fn", "predict_fn", "output_fn", "transform_fn", "handler"}


@dataclass(frozen=True)
class SageMaker:
    """model.tar.gz: the model's files, and `code/` with an inference script."""

    kind: str = "sagemaker"

    def knows(self, path: Path) -> bool:
        return path.name.lower().endswith((".tar.gz", ".tgz", ".tar")) and is_tar(path)

    def names(self, path: Path) -> tuple[str, str | None]:
        return named(path), None

    def take(self, path: Path, work: Path) -> Found:
        folder = work / "model"
        extract(path, folder)
        code = folder / "code"
        notes, needed, example = [], None, None
        if code.is_dir():
            notes += _scripts(code)
            listed = code / "requirements.txt"
            needed = python_requirements(listed) if listed.exists() else None
            shutil.rmtree(code)
        _name_xgboost(folder)
        found = _only(folder, work)
        found.requirements = None if needed is None else [*_framework(found, needed), *needed]
        found.notes += notes
        found.origin = {**found.origin, "archive": path.name}
        found.example = example or found.example
        return found


def _framework(found: Found, needed: list[str]) -> list[str]:
    """What the container brought, and so the script's requirements don't name."""
    from modelfleet.core.scan import scan

    if not found.path.is_file() or found.path.suffix not in (".pkl", ".joblib", ".pickle"):
        return []
    names = {one.split("=")[0].split(">")[0].split("<")[0].strip().lower() for one in needed}
    guessed = scan(found.path).requirements
    return [one for one in guessed if one.split("=")[0].split("<")[0].split(">")[0] not in names]


def _name_xgboost(folder: Path) -> None:
    """SageMaker's own algorithm writes `xgboost-model`, in whatever format XGBoost had then."""
    for path in folder.rglob("xgboost-model"):
        head = path.read_bytes()[:4]
        if head[:2] == b"{L":
            path.rename(path.with_name("xgboost-model.ubj"))
        elif head[:1] == b"{":
            path.rename(path.with_name("xgboost-model.json"))
        elif head[:1] == b"\x80":
            raise Attention(
                "xgboost-model is a pickled Booster of an old XGBoost. Load it there and save it: "
                "booster.save_model('model.ubj')."
            )
        else:
            raise Attention(
                "xgboost-model is in XGBoost's old binary format. Load it with XGBoost 1.x or 2.x "
                "and save it: booster.save_model('model.ubj')."
            )


def _scripts(code: Path) -> list[str]:
    """What an inference script does that is not taken over."""
    found = []
    for script in sorted(code.rglob("*.py")):
        try:
            tree = ast.parse(script.read_text("utf-8"))
        except (SyntaxError, ValueError):
            continue
        names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        if lost := sorted(names & _HANDLERS):
            found.append(
                f"{script.name} has {', '.join(lost)}, which are not taken over: the model itself "
                "answers"
            )
    return found


def _only(folder: Path, work: Path) -> Found:
    """The one model in a folder. Raises `Attention` if there are none or several."""
    models = list(walk(folder, list(INNER)))
    if len(models) != 1:
        names = [str(path.relative_to(folder)) for path, _ in models]
        what = f"several models ({', '.join(names[:6])})" if models else "no model that is known"
        raise Attention(f"It holds {what}; import the right file by itself.")
    path, opener = models[0]
    return opener.take(path, work / "inner")


@dataclass(frozen=True)
class TorchServe:
    """.mar: a zip with a manifest."""

    kind: str = "torchserve"

    def knows(self, path: Path) -> bool:
        return path.suffix.lower() == ".mar" and is_zip(path)

    def names(self, path: Path) -> tuple[str, str | None]:
        return named(path), None

    def take(self, path: Path, work: Path) -> Found:
        folder = work / "model"
        extract(path, folder)
        try:
            said = json.loads((folder / "MAR-INF" / "MANIFEST.json").read_text("utf-8"))["model"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Refused(f"Its manifest can't be read: {error!r}.") from error
        weights = said.get("serializedFile")
        if not weights:
            raise Attention("It has no serialized file: its handler makes the model by itself.")
        file = _inside(folder, str(weights))
        found = Found(file, "torch" if file.suffix in (".pt", ".pth", ".pt2", ".bin") else None)
        if found.kind and file.suffix not in (".pt", ".pth", ".pt2"):
            file = file.rename(file.with_suffix(".pt"))
            found.path = file
        if said.get("modelFile"):
            found.code = _inside(folder, str(said["modelFile"]))
            found.class_name = _module_class(found.code)
        listed = folder / "requirements.txt"
        if listed.exists():
            found.requirements = ["torch", "numpy", *python_requirements(listed)]
        found.notes.append(
            f"the handler {said.get('handler')} is not taken over: the network itself answers"
        )
        found.parameters = {"torchserve.version": str(said.get("modelVersion", ""))}
        found.origin = {"archive": path.name, "manifest": said}
        return found


def _inside(folder: Path, name: str) -> Path:
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()) or not path.is_file():
        raise ArchiveRefused(f"The manifest names {name!r}, which the archive does not hold.")
    return path


def _module_class(code: Path) -> str:
    """The one class of a model file, read and not run."""
    try:
        tree = ast.parse(code.read_text("utf-8"))
    except (SyntaxError, ValueError) as error:
        raise Refused(f"{code.name} is no Python: {error}.") from error
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    if len(classes) == 1:
        return classes[0].name
    raise Attention(f"{code.name} has {len(classes)} classes: register it with --class.")


_BENTO = {
    "bentoml.sklearn": ("saved_model.pkl", "sklearn"),
    "bentoml.xgboost": ("saved_model.ubj", "xgboost"),
    "bentoml.lightgbm": ("saved_model.txt", "lightgbm"),
    "bentoml.catboost": ("saved_model.cbm", "catboost"),
    "bentoml.onnx": ("saved_model.onnx", "onnx"),
    "bentoml.keras": ("saved_model.keras", "keras"),
    "bentoml.torchscript": ("saved_model.pt", "torch"),
    "bentoml.tensorflow": ("", "tensorflow"),
    "bentoml.mlflow": ("mlflow_model", "mlflow"),
    "bentoml.picklable_model": ("saved_model.pkl", None),
}


@dataclass(frozen=True)
class BentoML:
    """A model of BentoML's store: its folder, or what `bentoml models export` wrote."""

    kind: str = "bentoml"

    def knows(self, path: Path) -> bool:
        if path.is_dir():
            return "bentoml_version" in str(_yaml(path / "model.yaml").get("context", ""))
        return path.suffix.lower() == ".bentomodel" and (is_tar(path) or is_zip(path))

    def names(self, path: Path) -> tuple[str, str | None]:
        if path.is_dir():
            return str(_yaml(path / "model.yaml").get("name") or path.parent.name), None
        return named(path), None

    def take(self, path: Path, work: Path) -> Found:
        folder = path
        if path.is_file():
            folder = work / "model"
            extract(path, folder)
        refuse_links(folder)
        said = _yaml(folder / "model.yaml")
        module = str(said.get("module") or "")
        if module in _BENTO:
            name, kind = _BENTO[module]
            file = folder / name if name else folder
            if not file.exists():
                raise Attention(f"It is a {module} model, but {name} is not there.")
            found = Found(_suffixed(file, kind, work), kind)
        elif module in ("", "None"):
            found = self._own(folder, work)
        else:
            raise Attention(f"Models of {module} are not served from BentoML's files here.")
        self._describe(found, said)
        return found

    def _own(self, folder: Path, work: Path) -> Found:
        """`bentoml.models.create`: files of the user's own."""
        copied = work / "own"
        shutil.copytree(folder, copied)
        (copied / "model.yaml").unlink()
        return _only(copied, work)

    def _describe(self, found: Found, said: Mapping[str, Any]) -> None:
        context = said.get("context") or {}
        versions = context.get("framework_versions") or {}
        if versions and found.kind not in ("mlflow",):
            found.requirements = [*(f"{name}=={number}" for name, number in versions.items())]
            found.requirements += [] if "numpy" in versions else ["numpy"]
            found.requirements += ["joblib"] if found.kind == "sklearn" else []
        python = ".".join(str(context.get("python_version") or "").split(".")[:2])
        found.python = python or None
        found.tags = {str(k): str(v) for k, v in (said.get("labels") or {}).items()}
        metadata = said.get("metadata") or {}
        found.metrics = {
            str(k): float(v)
            for k, v in metadata.items()
            if isinstance(v, (int, float)) and not isinstance(v, bool)
        }
        found.parameters = {
            "bentoml.tag": f"{said.get('name')}:{said.get('version')}",
            **{str(k): str(v) for k, v in metadata.items() if str(k) not in found.metrics},
        }
        found.origin = {
            "tag": found.parameters["bentoml.tag"],
            "module": said.get("module"),
            "signatures": said.get("signatures"),
            "context": context,
        }


def _suffixed(file: Path, kind: str | None, work: Path) -> Path:
    """TensorFlow's folder without BentoML's own file."""
    if kind != "tensorflow":
        return file
    copied = work / "saved_model"
    shutil.copytree(file, copied, ignore=shutil.ignore_patterns("model.yaml"))
    return copied


def _yaml(path: Path) -> Mapping[str, Any]:
    try:
        found = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


ALL: tuple[Opener, ...] = (BentoML(), TorchServe(), SageMaker(), *INNER)
