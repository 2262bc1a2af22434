"""InferenceServices of KServe, as YAML: each names a storage address and a format."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

from modelfleet.client.errors import ClientError
from modelfleet.importing.names import model_name
from modelfleet.importing.openers import walk
from modelfleet.importing.packed import ALL
from modelfleet.importing.types import Attention, Found, Item

_FORMATS = {
    "sklearn": None,
    "xgboost": None,
    "lightgbm": None,
    "onnx": "onnx",
    "pytorch": None,
    "tensorflow": "tensorflow",
    "mlflow": "mlflow",
}
_OLD = (
    "sklearn",
    "xgboost",
    "lightgbm",
    "tensorflow",
    "pytorch",
    "onnx",
    "triton",
    "pmml",
    "paddle",
)


class KServe:
    """storage: prefixes of storage addresses to folders of this machine."""

    name = "kserve"
    fetches = False

    def __init__(self, files: Sequence[Path], storage: Mapping[str, Path]) -> None:
        self._files = files
        self._storage = dict(sorted(storage.items(), key=lambda pair: -len(pair[0])))
        self._services: dict[str, Mapping[str, Any]] = {}

    def items(self) -> Iterator[Item]:
        for file in self._files:
            for document in _documents(file):
                if document.get("kind") != "InferenceService":
                    continue
                head = document.get("metadata") or {}
                space, name = head.get("namespace") or "default", str(head.get("name") or "")
                key = f"kserve:{space}:{name}"
                self._services[key] = document
                yield Item(key, model_name(name), title=f"{space}/{name}")

    def model_facts(self, model: str) -> Mapping[str, object]:
        for key, document in self._services.items():
            if model_name(key.rpartition(":")[2]) == model:
                labels = (document.get("metadata") or {}).get("labels") or {}
                tags = {"kserve.namespace": key.split(":")[1]}
                return {"tags": {**tags, **{str(k): str(v) for k, v in labels.items()}}}
        return {}

    def take(self, item: Item, work: Path) -> Found:
        spec = self._services[item.key].get("spec") or {}
        predictor = spec.get("predictor") or {}
        form, address = _model(predictor)
        if not address:
            raise Attention(
                "Its predictor names no storageUri: a container of its own holds the model."
            )
        if form not in _FORMATS:
            raise Attention(f"Models of KServe's format {form!r} are not served here.")
        place = self._place(address)
        models = list(walk(place, list(ALL)))
        if len(models) != 1:
            what = "no model that is known" if not models else f"{len(models)} models"
            raise Attention(f"{address} ({place}) holds {what}.")
        path, opener = models[0]
        found = opener.take(path, work)
        found.kind = found.kind or _FORMATS[form]
        found.origin = {**found.origin, "storage": address, "format": form}
        for part in ("transformer", "explainer"):
            if spec.get(part):
                found.notes.append(f"its {part} is not taken over")
        if predictor.get("canaryTrafficPercent"):
            found.notes.append("its canary share is not taken over: start a rollout instead")
        return found

    def _place(self, address: str) -> Path:
        for prefix, folder in self._storage.items():
            if address == prefix or address.startswith(prefix.rstrip("/") + "/"):
                rest = address[len(prefix.rstrip("/")) :].strip("/")
                if ".." in rest.split("/"):
                    raise Attention(f"{address} leads out of {prefix}.")
                place = folder / rest if rest else folder
                if not place.exists():
                    raise Attention(f"{address} should lie in {place}, which is not there.")
                return place
        parts = urlsplit(address)
        if parts.scheme == "file" and Path(unquote(parts.path)).exists():
            return Path(unquote(parts.path))
        how = "mount its volume" if parts.scheme == "pvc" else "download it"
        root = f"{parts.scheme}://{parts.netloc}"
        raise Attention(
            f"Its model lies at {address}: {how}, and say where: --storage {root}=FOLDER."
        )


def _model(predictor: Mapping[str, Any]) -> tuple[str, str]:
    """Format and storage address, in the newer and in the older way of writing."""
    model = predictor.get("model")
    if isinstance(model, dict):
        form = str((model.get("modelFormat") or {}).get("name") or "")
        storage = model.get("storage") or {}
        return form, str(model.get("storageUri") or storage.get("path") or "")
    for form in _OLD:
        if isinstance(predictor.get(form), dict):
            return form, str(predictor[form].get("storageUri") or "")
    return "", ""


def _documents(file: Path) -> list[Mapping[str, Any]]:
    try:
        listed = list(yaml.safe_load_all(file.read_text("utf-8")))
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise ClientError(f"{file.name} can't be read: {error}") from error
    found: list[Mapping[str, Any]] = []
    for one in listed:
        if isinstance(one, dict):
            several = one.get("items") if one.get("kind") == "List" else None
            found += [item for item in (several or [one]) if isinstance(item, dict)]
    return found
