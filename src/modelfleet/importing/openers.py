"""Files and folders of other tools: which tool's they are, and how each is read.

An opener looks at a path without reading much, and takes it into a folder of the import's own.
"""

from __future__ import annotations

import json
import re
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from modelfleet.client.errors import ClientError
from modelfleet.client.saving import detect
from modelfleet.core.archives import refuse_links
from modelfleet.importing.pickled import ENDINGS
from modelfleet.importing.types import Attention, Found, Refused

GENERIC = {
    "model",
    "models",
    "pipeline",
    "clf",
    "classifier",
    "regressor",
    "estimator",
    "saved_model",
}
"""stems that say nothing: the folder's name is better"""


class Opener(Protocol):
    """One tool. kind: its word on the command line."""

    @property
    def kind(self) -> str: ...

    def knows(self, path: Path) -> bool: ...

    def names(self, path: Path) -> tuple[str, str | None]:
        """The model's name and version, as the file or its place tells."""
        ...

    def take(self, path: Path, work: Path) -> Found:
        """Raises `Attention` or `Refused`."""
        ...


def named(path: Path) -> str:
    """By the file's own name, or its folder's if that says nothing."""
    stem = re.sub(r"(\.tar)?\.[A-Za-z0-9]{1,12}$", "", path.name) if path.is_file() else path.name
    return path.resolve().parent.name if stem.lower() in GENERIC else stem


@dataclass(frozen=True)
class Plain:
    """What a framework saved: everything that `client.saving.detect` knows of."""

    kind: str = "plain"

    def knows(self, path: Path) -> bool:
        try:
            return detect(path) != "bundle"
        except ClientError:
            return False

    def names(self, path: Path) -> tuple[str, str | None]:
        if path.is_dir() and path.name.isdigit():  # TensorFlow Serving: model/1/saved_model.pb
            return path.resolve().parent.name, path.name
        return named(path), None

    def take(self, path: Path, work: Path) -> Found:
        if path.is_dir():
            refuse_links(path)
        if path.suffix.lower() == ".keras" and '"class_name": "Lambda"' in _keras_config(path):
            raise Refused("It has a Lambda layer, which is code inside of the file.")
        return Found(path, origin={"file": path.name})


def _keras_config(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.read("config.json").decode("utf-8", "replace")
    except (zipfile.BadZipFile, KeyError, OSError):
        return ""


@dataclass(frozen=True)
class Pickle:
    """A pickle or joblib file, whatever its name ends in."""

    kind: str = "pickle"

    def knows(self, path: Path) -> bool:
        return path.is_file() and path.suffix.lower() in ENDINGS

    def names(self, path: Path) -> tuple[str, str | None]:
        return named(path), None

    def take(self, path: Path, work: Path) -> Found:
        if path.suffix.lower() in (".joblib", ".pkl", ".pickle"):
            return Found(path, origin={"file": path.name})
        work.mkdir(parents=True)
        copied = work / "model.pkl"
        copied.write_bytes(path.read_bytes())
        return Found(copied, origin={"file": path.name})


@dataclass(frozen=True)
class OldKeras:
    """HDF5 files of Keras 2."""

    kind: str = "keras-h5"

    def knows(self, path: Path) -> bool:
        return path.is_file() and path.suffix.lower() in (".h5", ".hdf5")

    def names(self, path: Path) -> tuple[str, str | None]:
        return named(path), None

    def take(self, path: Path, work: Path) -> Found:
        raise Attention(
            "It is in Keras' old HDF5 format. Load it with the Keras that wrote it and save it as "
            ".keras (model.save('model.keras')), then import that."
        )


@dataclass(frozen=True)
class HuggingFace:
    """A folder of `transformers`: config.json and weights."""

    kind: str = "huggingface"

    def knows(self, path: Path) -> bool:
        return path.is_dir() and bool(self._config(path).keys() & {"model_type", "architectures"})

    def names(self, path: Path) -> tuple[str, str | None]:
        said = str(self._config(path).get("_name_or_path") or "")
        return (
            said.rsplit("/", 1)[-1] if said and named(path).startswith("checkpoint") else ""
        ) or named(path), None

    def take(self, path: Path, work: Path) -> Found:
        config = self._config(path)
        if config.get("auto_map"):
            raise Refused(
                "Its config asks for code of its own (auto_map, trust_remote_code): not run here."
            )
        graphs = sorted({*path.glob("*.onnx"), *path.glob("onnx/model.onnx")})
        if len(graphs) == 1:
            found = Found(graphs[0], "onnx", origin={"config": _short(config)})
            found.notes.append("the tokenizer is not taken over: callers send token ids")
            return found
        said = config.get("architectures")
        architecture = ", ".join(map(str, said)) if isinstance(said, list) else "unknown"
        raise Attention(
            f"Transformers models ({architecture}) are not served from their weights. Export it "
            "(optimum-cli export onnx --model FOLDER OUT) and import OUT."
        )

    def _config(self, path: Path) -> Mapping[str, object]:
        try:
            found = json.loads((path / "config.json").read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}


def _short(config: Mapping[str, object]) -> dict[str, object]:
    kept = ("model_type", "architectures", "num_labels", "id2label", "transformers_version")
    return {key: config[key] for key in kept if key in config}


def python_requirements(path: Path) -> list[str]:
    """The lines of a requirements.txt that can be locked; `Attention` for others."""
    found = []
    for line in path.read_text("utf-8").splitlines():
        text = line.split(" #")[0].strip()
        if not text or text.startswith("#"):
            continue
        if text.startswith("-") or "://" in text or "@" in text:
            raise Attention(f"{path.name} asks for {text!r}, which can't be locked.")
        found.append(text)
    return found


def is_tar(path: Path) -> bool:
    return path.is_file() and tarfile.is_tarfile(path)


def is_zip(path: Path) -> bool:
    return path.is_file() and zipfile.is_zipfile(path)


def walk(path: Path, openers: list[Opener]) -> Iterator[tuple[Path, Opener]]:
    """Everything below a path that an opener knows; what it knows is not looked into."""
    for opener in openers:
        if opener.knows(path):
            yield path, opener
            return
    if path.is_dir() and not path.is_symlink():
        for below in sorted(path.iterdir()):
            if not below.name.startswith(".") and below.name != "__pycache__":
                yield from walk(below, openers)
