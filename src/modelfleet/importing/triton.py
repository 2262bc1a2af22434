"""A model repository of Triton: for each model a folder, config.pbtxt and numbered versions."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from modelfleet.core.archives import refuse_links
from modelfleet.importing import pbtxt
from modelfleet.importing.names import model_name, semver
from modelfleet.importing.types import Attention, Found, Item

_BACKENDS = {
    "onnxruntime_onnx": "onnxruntime",
    "pytorch_libtorch": "pytorch",
    "tensorflow_savedmodel": "tensorflow",
    "tensorflow_graphdef": "graphdef",
    "tensorrt_plan": "tensorrt",
}
_FILES = {
    "onnxruntime": ("model.onnx", "onnx"),
    "pytorch": ("model.pt", "torch"),
    "tensorflow": ("model.savedmodel", "tensorflow"),
}
_REASONS = {
    "python": "Its Python backend is code against Triton's own module. Make it a model with "
    "predict(dict of arrays) and register that, or export what it computes.",
    "tensorrt": "A TensorRT plan runs on the GPU that it was compiled for. Import the ONNX graph "
    "that it was made of.",
    "graphdef": "A frozen TensorFlow graph (model.graphdef) has no signature. Import a SavedModel.",
    "ensemble": "An ensemble has no model of its own. Import its parts, then define a pipeline "
    "(docs/pipelines.md).",
    "dali": "DALI pipelines are preprocessing on a GPU, which is not served here.",
    "openvino": "OpenVINO's own format is not served here. Import the ONNX graph it was made of.",
}
_TYPES = {
    "TYPE_BOOL": "bool",
    "TYPE_UINT8": "uint8",
    "TYPE_UINT16": "uint16",
    "TYPE_UINT32": "uint32",
    "TYPE_UINT64": "uint64",
    "TYPE_INT8": "int8",
    "TYPE_INT16": "int16",
    "TYPE_INT32": "int32",
    "TYPE_INT64": "int64",
    "TYPE_FP16": "float16",
    "TYPE_FP32": "float32",
    "TYPE_FP64": "float64",
}
_ROWS = 16
_LIMIT = 1 << 24


class Triton:
    """root: the repository."""

    name = "triton"
    fetches = False

    def __init__(self, root: Path) -> None:
        self._root = root

    def items(self) -> Iterator[Item]:
        for folder in sorted(path for path in self._root.iterdir() if path.is_dir()):
            numbers = sorted(
                (path for path in folder.iterdir() if path.is_dir() and path.name.isdigit()),
                key=lambda path: int(path.name),
            )
            if not numbers and not (folder / "config.pbtxt").exists():
                continue
            for one in numbers or [folder / "1"]:
                key = f"triton:{folder.name}:{one.name}"
                yield Item(key, model_name(folder.name), semver(one.name), title=folder.name)

    def model_facts(self, model: str) -> Mapping[str, object]:
        return {}

    def take(self, item: Item, work: Path) -> Found:
        _, name, number = item.key.split(":")
        folder = self._root / name
        config = self._config(folder)
        backend = self._backend(config, folder / number)
        if backend in _REASONS:
            raise Attention(_REASONS[backend])
        path, kind = self._file(folder / number, backend, config)
        if path.is_dir():
            refuse_links(path)
        work.mkdir(parents=True)
        if kind == "torch" and path.suffix != ".pt":
            path = Path(shutil.copyfile(path, work / "model.pt"))
        found = Found(path, kind, origin={"model": name, "version": number, "backend": backend})
        self._add_example(found, folder, config)
        self._note(found, config)
        return found

    def _config(self, folder: Path) -> pbtxt.Message:
        path = folder / "config.pbtxt"
        if not path.exists():
            return {}
        try:
            return pbtxt.parse(path.read_text("utf-8"))
        except (pbtxt.BadText, UnicodeError) as error:
            raise Attention(f"config.pbtxt: {error}.") from error

    def _backend(self, config: pbtxt.Message, version: Path) -> str:
        platform = str(pbtxt.first(config, "platform", ""))
        said = str(pbtxt.first(config, "backend", "")) or _BACKENDS.get(platform, platform)
        if said:
            return said
        for backend, (name, _) in _FILES.items():
            if (version / name).exists():
                return backend
        raise Attention("Neither its config nor its files tell the backend.")

    def _file(self, version: Path, backend: str, config: pbtxt.Message) -> tuple[Path, str | None]:
        if not version.is_dir():
            raise Attention(f"It has no folder {version.name} with a version.")
        if backend == "fil":
            return self._forest(version), None
        if backend not in _FILES:
            raise Attention(f"Triton's backend {backend!r} is not served here.")
        name, kind = _FILES[backend]
        path = version / str(pbtxt.first(config, "default_model_filename", name))
        if path.parent != version or not path.exists():
            raise Attention(f"{version.name} has no {path.name}.")
        return path, kind

    def _forest(self, version: Path) -> Path:
        for name in ("xgboost.json", "xgboost.ubj", "model.txt"):
            if (version / name).exists():
                return version / name
        raise Attention(
            "Its forest is in a format that is not served here (XGBoost's old binary one, or a "
            "Treelite checkpoint). Save it as xgboost.ubj or LightGBM's model.txt."
        )

    def _add_example(self, found: Found, folder: Path, config: pbtxt.Message) -> None:
        """Of its warm-up, else drawn from its inputs where the file itself does not tell them."""
        example = self._warmup(folder, config)
        if example is not None:
            found.example, found.example_from = example, "Triton's warm-up data"
        elif found.kind == "torch":
            found.example = self._drawn(config)
            found.example_from, found.made_up = "drawn from config.pbtxt", True

    def _warmup(self, folder: Path, config: pbtxt.Message) -> dict[str, Any] | None:
        import numpy as np

        batched = int(pbtxt.first(config, "max_batch_size", 0) or 0) > 0
        for sample in config.get("model_warmup", []):
            found: dict[str, Any] = {}
            for one in sample.get("inputs", []):
                value = pbtxt.first(one, "value", {})
                file = pbtxt.first(value, "input_data_file")
                dtype = _TYPES.get(str(pbtxt.first(value, "data_type")))
                if file is None or dtype is None:
                    break  # zeros or random numbers: no better than what we draw ourselves
                path = (folder / "warmup" / str(file)).resolve()
                if not path.is_relative_to(folder.resolve()) or not path.is_file():
                    raise Attention(f"Its warm-up names {file!r}, which is not there.")
                dims = [int(size) for size in value.get("dims", [])]
                rows = int(pbtxt.first(sample, "batch_size", 1) or 1) if batched else 1
                array = np.frombuffer(path.read_bytes()[:_LIMIT], dtype=dtype)
                shape = [rows, *dims] if batched else dims
                try:
                    row = array.reshape([1, *dims]) if batched else array.reshape(dims)
                except ValueError as error:
                    raise Attention(
                        f"Its warm-up {file} does not have the shape {dims}."
                    ) from error
                key = str(pbtxt.first(one, "key"))
                found[key] = np.broadcast_to(row, shape).copy() if batched else row
            else:
                if found:
                    return found
        return None

    def _drawn(self, config: pbtxt.Message) -> dict[str, Any]:
        import numpy as np

        random = np.random.default_rng(0)
        batched = int(pbtxt.first(config, "max_batch_size", 0) or 0) > 0
        found: dict[str, Any] = {}
        for one in config.get("input", []):
            dims = [int(size) for size in one.get("dims", [])]
            inner = dims if batched else dims[1:]
            dtype = _TYPES.get(str(pbtxt.first(one, "data_type")))
            if dtype is None or any(size < 1 for size in inner):
                raise Attention(
                    f"Its input {pbtxt.first(one, 'name')!r} has no fixed shape or is text, so "
                    "that no rows can be drawn: add warm-up data (model_warmup)."
                )
            shape = (_ROWS, *inner)
            whole = np.dtype(dtype).kind in "iub"
            made = random.integers(0, 2, shape) if whole else random.normal(size=shape)
            found[str(pbtxt.first(one, "name"))] = made.astype(dtype)
        if not found:
            raise Attention("Its config names no inputs: add warm-up data (model_warmup).")
        return found

    def _note(self, found: Found, config: pbtxt.Message) -> None:
        for field, text in (
            (
                "sequence_batching",
                "it keeps state between requests (sequence batching): that is lost",
            ),
            ("model_transaction_policy", "it streams answers (decoupled): that is lost"),
        ):
            if field in config:
                found.notes.append(text)
        found.origin = {
            **found.origin,
            "max_batch_size": pbtxt.first(config, "max_batch_size", 0),
            "labels": [str(pbtxt.first(one, "name")) for one in config.get("output", [])],
        }
