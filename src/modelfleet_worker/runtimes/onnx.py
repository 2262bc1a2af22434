"""ONNX graphs in ONNX Runtime: one thread, no spinning, no arena, no memory pattern.

With these settings a small model costs 78 kB and no thread; the defaults cost 170 kB and one
thread per session. Float inputs are cast to what the graph wants (float32 as a rule), and
outputs back to what the signature promises, so that clients never see the compilation. Lists of
class: probability (ZipMap) become a tensor [N, classes].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from modelfleet_worker.runtimes.base import Facts, Habits, LoadError, Tensors, framework, sized
from modelfleet_worker.wire.signature import Array, datatype_of
from modelfleet_worker.wire.spec import BundleSpec

_KINDS = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int8)": np.int8,
    "tensor(int16)": np.int16,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(uint8)": np.uint8,
    "tensor(uint16)": np.uint16,
    "tensor(uint32)": np.uint32,
    "tensor(uint64)": np.uint64,
    "tensor(bool)": np.bool_,
    "tensor(string)": np.object_,
}


class OnnxRuntime:
    """`options.inputs` and `options.outputs` map names of the signature to names in the graph;
    `options.classes` are the labels whose positions the graph gives."""

    def __init__(self, artifact: Path, spec: BundleSpec) -> None:
        self._session = _session(artifact)
        nodes = self._session.get_inputs()
        names = _match(
            [tensor.name for tensor in spec.signature.inputs],
            [node.name for node in nodes],
            spec.options.get("inputs"),
            "inputs",
        )
        by_name = {node.name: node for node in nodes}
        self._feeds = [
            (tensor.name, name, _dtype(by_name[name].type), _wants_column(by_name[name].shape))
            for tensor, name in zip(spec.signature.inputs, names)
        ]
        self._names = [tensor.name for tensor in spec.signature.outputs]
        self._fetches = _match(
            self._names,
            [node.name for node in self._session.get_outputs()],
            spec.options.get("outputs"),
            "outputs",
        )
        # The public `run` checks names that `_match` has checked already: 4 of its 12 us.
        native = getattr(self._session, "_sess", None)
        self._run = self._session.run if native is None else native.run

        kinds = {node.name: node.type for node in self._session.get_outputs()}
        self._maps = [
            k for k, name in enumerate(self._fetches) if kinds[name].startswith("seq(map")
        ]
        self.habits = Habits(named=spec.options.get("answers") == "named")
        classes = spec.options.get("classes") if "label" in self._names else None
        self._classes = None if classes is None else np.asarray(classes)

    @staticmethod
    def facts(artifact: Path, options: Mapping[str, Any]) -> Facts:
        session = _session(artifact)
        nodes = session.get_inputs()
        specs, batch = sized(
            [(node.name, _name(node.type), [*map(_size, node.shape)]) for node in nodes]
        )
        sizes = {
            node.name: tuple(map(_size, node.shape))
            for node in session.get_outputs()
            if isinstance(node.shape, (list, tuple))
        }
        outputs = tuple(node.name for node in session.get_outputs())
        return Facts(specs, outputs, options={**options, **batch}, sizes=sizes)

    def predict(self, inputs: Tensors) -> Tensors:
        feed: dict[str, Array] = {}
        for name, node, dtype, column in self._feeds:
            array = inputs[name]
            if array.dtype is not dtype:
                array = array.astype(dtype)
            feed[node] = array.reshape(-1, 1) if column and array.ndim == 1 else array
        found = self._run(self._fetches, feed, None)
        for k in self._maps:
            found[k] = np.array([list(row.values()) for row in found[k]])
        if self._classes is not None:
            label = self._names.index("label")
            found[label] = self._classes[found[label]]
        return dict(zip(self._names, found))


def _session(artifact: Path) -> Any:
    ort = framework("onnxruntime")
    ort.disable_telemetry_events()
    path = artifact
    if artifact.is_dir():  # a graph and its weights in files beside it
        graphs = sorted(artifact.glob("*.onnx"))
        if len(graphs) != 1:
            raise LoadError(f"{artifact.name} holds {len(graphs)} .onnx files instead of one")
        path = graphs[0]
    try:
        return ort.InferenceSession(str(path), _options(ort), providers=["CPUExecutionProvider"])
    except Exception as error:  # its C++ errors share no base class
        raise LoadError(f"{path.name}: {error}") from error


def _size(given: object) -> int:
    """A dimension of the graph; names and gaps are variable."""
    return given if isinstance(given, int) and given > 0 else -1


def _name(kind: str) -> str:
    return datatype_of(np.empty(0, _dtype(kind)))


def _options(ort: object) -> object:
    options = ort.SessionOptions()  # type: ignore[attr-defined]
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return options


def _match(wanted: Sequence[str], found: Sequence[str], mapped: object, what: str) -> list[str]:
    """Names in the graph for names of the signature: mapped, equal, or by position."""
    if isinstance(mapped, dict):
        names = [str(mapped.get(name, name)) for name in wanted]
    elif set(wanted) <= set(found) or len(wanted) != len(found):
        names = list(wanted)
    else:
        names = list(found)
    missing = [name for name in names if name not in found]
    if missing:
        raise LoadError(f"the graph has the {what} {list(found)}, not {missing}")
    return names


def _dtype(kind: str) -> np.dtype[np.generic]:
    if kind not in _KINDS:
        raise LoadError(f"the graph has an input of the type {kind}, which is not supported")
    return np.dtype(_KINDS[kind])


def _wants_column(shape: Sequence[object]) -> bool:
    return len(shape) == 2
