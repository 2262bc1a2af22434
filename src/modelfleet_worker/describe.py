"""`python -m modelfleet_worker.describe FOLDER`: completes the bundle of a bare artifact.

FOLDER holds `files/` (the artifact and what belongs to it), `draft.json`, and, if there are any,
`inputs.npz` (example rows) and `reference.npz`. The artifact is asked what it takes, answers the
example with the same code that will serve it, and `bundle.json`, `example.json` and
`reference.json` are written beside it, or into `made/` if there is such a folder. Runs in the
model's own environment; answers one line of JSON: a `Described`.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional

import msgspec
import numpy as np

from modelfleet_worker import rows, runtimes
from modelfleet_worker.runtimes.base import WHOLE, Facts, LoadError, Runtime
from modelfleet_worker.wire import profile
from modelfleet_worker.wire.bundle import FILES
from modelfleet_worker.wire.signature import DTYPES, Array, Signature, TensorSpec, infer
from modelfleet_worker.wire.spec import (
    BUNDLE_FILE,
    EXAMPLE_FILE,
    REFERENCE_FILE,
    BundleSpec,
    ScoreSpec,
    example_of,
)

EXAMPLE_ROWS = 256
MADE = "made"
_MADE_UP_ROWS = 64
_BY_ROWS = ("sklearn", "lightgbm", "xgboost", "catboost")
"""runtimes whose models answer rows, each for itself"""
Tensors = dict[str, Array]


class Draft(msgspec.Struct, frozen=True):
    """What is known before the artifact was asked. `features` names columns of a matrix."""

    runtime: str
    artifact: str
    options: dict[str, Any] = {}
    features: Optional[tuple[str, ...]] = None
    refuse_missing: Optional[bool] = None


class Described(msgspec.Struct, frozen=True):
    """`error`: why it can't be registered; else `runtime` is the one that will serve it."""

    runtime: str = ""
    error: str = ""
    versions: dict[str, str] = {}
    """of all that is installed, by normalized name"""


def describe(
    folder: Path, draft: Draft, given: Optional[Tensors], reference: Optional[Tensors]
) -> BundleSpec:
    """Write the missing files of the bundle. LoadError, or what the model raises."""
    facts: Facts = runtimes.runtime_class(draft.runtime).facts(
        folder / FILES / draft.artifact, draft.options
    )
    if facts.runtime and facts.runtime != draft.runtime:
        draft = msgspec.structs.replace(
            draft,
            runtime=facts.runtime,
            artifact=f"{draft.artifact}/{facts.artifact}",
            options=facts.options,
        )
        facts = _handed_over(folder, draft, facts)
    if given is None and facts.example is not None:
        given = {name: np.asarray(array) for name, array in facts.example.items()}
    options = dict(facts.options)
    if given is None:
        inputs, options["example"] = _made_up(facts), "made up"
    else:
        inputs = _fitted(facts, given)
        if facts.inputs is None and not rows.aligned(inputs, {}):
            _may_be_whole(draft, inputs)
            inputs, options["batch"] = rows.one_call(inputs), WHOLE
    inputs = {name: array[:EXAMPLE_ROWS] for name, array in inputs.items()}
    specs = _specs(facts, inputs, draft.features, options.get("batch") == WHOLE)
    runtime, spec = _provisional(folder, draft, facts, specs, options)
    outputs = _outputs(runtime, inputs)
    if draft.runtime in _BY_ROWS or options.get("batch") is not None:
        _check_rows(inputs, outputs)
    elif not (rows.aligned(inputs, outputs) and rows.independent(runtime.predict, inputs, outputs)):
        if given is None:
            inputs = {name: array[:1] for name, array in inputs.items()}
        specs, inputs, options["batch"] = rows.whole(specs), rows.one_call(inputs), WHOLE
        runtime, spec = _provisional(folder, draft, facts, specs, options)
        outputs = _outputs(runtime, inputs)
    if facts.outputs and spec.runtime in ("onnx", "tensorflow", "keras"):
        outputs = {name: outputs[name] for name in facts.outputs}
    signature = Signature(specs, infer(inputs, outputs).outputs)
    sizes = dict(facts.sizes)
    if options.get("batch") == WHOLE:
        signature = Signature(specs, rows.of_calls(inputs, outputs).outputs)
        sizes = {name: (-1, *shape) for name, shape in sizes.items()}
    refuse = draft.refuse_missing
    spec = msgspec.structs.replace(
        spec,
        signature=rows.variable(runtime.predict, inputs, signature, sizes),
        score=score_of(outputs),
        refuse_missing=_raises_for_missing(runtime, specs, inputs) if refuse is None else refuse,
    )
    made = folder / MADE if (folder / MADE).is_dir() else folder / FILES
    _write(made, spec, inputs, outputs)
    if reference is not None:
        _write_reference(made, spec, runtime, _fitted(facts, reference))
    return spec


def _outputs(runtime: Runtime, inputs: Tensors) -> Tensors:
    found = runtime.predict(inputs)
    if not found:
        raise LoadError("it gave no outputs for its example")
    return {name: texts(np.asarray(array)) for name, array in found.items()}


def _may_be_whole(draft: Draft, inputs: Tensors) -> None:
    if draft.runtime in _BY_ROWS:
        shapes = {name: list(array.shape) for name, array in inputs.items()}
        raise LoadError(f"the inputs of its example have not equally many rows: {shapes}")


def score_of(outputs: Mapping[str, Array]) -> Optional[ScoreSpec]:
    """The one number per row to watch: a binary probability, or the first single number."""
    for name, array in outputs.items():
        if "probabilit" in name and array.ndim == 2 and array.shape[1] == 2:
            return ScoreSpec(name, 1)
    for name, array in outputs.items():
        single = array.ndim == 1 or (array.ndim == 2 and array.shape[1] == 1)
        if name != "probability" and single and array.dtype.kind in "fiu":
            return ScoreSpec(name)
    return None


def texts(array: Array) -> Array:
    """Text as an array of objects."""
    return array.astype(object) if array.dtype.kind in "US" else array


def _handed_over(folder: Path, draft: Draft, facts: Facts) -> Facts:
    """The inputs by the other runtime's own knowledge, if the first one had none."""
    if facts.inputs is not None:
        return facts
    known: Facts = runtimes.runtime_class(draft.runtime).facts(
        folder / FILES / draft.artifact, draft.options
    )
    if facts.outputs:
        return msgspec.structs.replace(facts, inputs=known.inputs)
    return msgspec.structs.replace(known, example=facts.example)


def _made_up(facts: Facts) -> Tensors:
    """Random rows for inputs of known shapes; LoadError if they can't be guessed."""
    if facts.inputs is None:
        raise LoadError("what it takes can't be read from the file: give an example of its inputs")
    random = np.random.default_rng(0)
    found: Tensors = {}
    for spec in facts.inputs:
        sizes = (_MADE_UP_ROWS, *spec.shape[1:])
        if spec.datatype == "BYTES" or -1 in sizes:
            raise LoadError(
                f"its input {spec.name!r} is {spec.datatype} {list(spec.shape)}: "
                "give an example of its inputs"
            )
        if spec.dtype.kind == "f":
            found[spec.name] = random.normal(size=sizes).astype(spec.dtype)
        else:
            found[spec.name] = random.integers(0, 2, size=sizes).astype(spec.dtype)
    return found


def _fitted(facts: Facts, given: Tensors) -> Tensors:
    """The rows that were given, under the names and in the datatypes that the model wants."""
    given = {name: texts(np.asarray(array)) for name, array in given.items()}
    specs = facts.inputs
    if specs is None:
        return {name: _floats(array, facts.floats) for name, array in given.items()}
    names = [spec.name for spec in specs]
    whole = facts.options.get("batch") == WHOLE
    if set(names) == set(given):
        return {spec.name: _cast(spec, given[spec.name], whole) for spec in specs}
    if len(specs) == 1 and len(given) == 1:
        return {specs[0].name: _cast(specs[0], next(iter(given.values())), whole)}
    features = specs[0].features
    if len(specs) == 1 and features is not None and set(features) == set(given):
        return {name: given[name] for name in features}
    matrix = next(iter(given.values()))
    if len(given) == 1 and matrix.ndim == 2 and matrix.shape[1] == len(specs):
        return {spec.name: _cast(spec, matrix[:, k]) for k, spec in enumerate(specs)}
    raise LoadError(f"the example has the inputs {sorted(given)}, the model takes {names}")


def _cast(spec: TensorSpec, array: Array, whole: bool = False) -> Array:
    """whole: the model takes no rows; the example may be one call."""
    sizes = spec.shape[1:]
    if whole and array.ndim == len(sizes):
        array = array.reshape(1, *array.shape)
    if array.ndim != len(spec.shape) and array.size == len(array) and sizes in ((), (1,)):
        array = array.reshape([len(array), *sizes])
    fits = array.ndim == len(spec.shape) and all(
        wanted in (-1, size) for wanted, size in zip(sizes, array.shape[1:])
    )
    if not fits:
        raise LoadError(
            f"the example's {spec.name!r} has the shape {list(array.shape)}, "
            f"the model takes {list(sizes if whole else spec.shape)}"
        )
    try:
        return array.astype(spec.dtype)
    except (TypeError, ValueError) as error:
        raise LoadError(f"the example's {spec.name!r} is not {spec.datatype}: {error}") from error


def _floats(array: Array, datatype: Optional[str]) -> Array:
    return array.astype(DTYPES[datatype]) if datatype and array.dtype.kind == "f" else array


def _specs(
    facts: Facts, inputs: Tensors, features: Optional[tuple[str, ...]], whole: bool
) -> tuple[TensorSpec, ...]:
    """whole: the model takes no rows, so that all that is known of it is an example of one call."""
    known = {spec.name: spec for spec in facts.inputs or ()}
    found = []
    for spec in (rows.of_calls if whole else infer)(inputs, inputs).inputs:
        chosen = known.get(spec.name, spec)
        names = features or chosen.features
        if len(inputs) == 1 and len(chosen.shape) == 2 and names is not None:
            chosen = msgspec.structs.replace(chosen, features=names)
        found.append(chosen)
    return tuple(found)


def _provisional(
    folder: Path,
    draft: Draft,
    facts: Facts,
    specs: tuple[TensorSpec, ...],
    options: dict[str, Any],
) -> tuple[Runtime, BundleSpec]:
    """The runtime as it will serve, before the shapes of its outputs are known."""
    names = facts.outputs or ("prediction",)
    spec = BundleSpec(
        runtime=draft.runtime,
        artifact=draft.artifact,
        signature=Signature(specs, tuple(TensorSpec(name, "FP64", (-1,)) for name in names)),
        method=facts.method,
        options=options,
    )
    return runtimes.load(folder, spec), spec


def _check_rows(inputs: Tensors, outputs: Tensors) -> None:
    count = len(next(iter(inputs.values())))
    for name, array in outputs.items():
        if array.ndim == 0 or len(array) != count:
            raise LoadError(
                f"its output {name!r} has the shape {list(array.shape)} for {count} rows; "
                "a model answers with one entry for each row"
            )


def _raises_for_missing(runtime: Runtime, specs: tuple[TensorSpec, ...], inputs: Tensors) -> bool:
    """What a compiled graph would answer with a number: the source has to be asked. Optional
    inputs may always be missing."""
    wanted = {spec.name for spec in specs if spec.dtype.kind == "f" and not spec.optional}
    if not wanted:
        return False
    gaps = {
        name: np.full_like(array[:1], np.nan) if name in wanted else array[:1]
        for name, array in inputs.items()
    }
    try:
        runtime.predict(gaps)
    except Exception:  # noqa: BLE001  # it refuses them in its own way, source and compiled alike
        return True
    return False


def _write(files: Path, spec: BundleSpec, inputs: Tensors, outputs: Tensors) -> None:
    (files / BUNDLE_FILE).write_bytes(msgspec.json.encode(spec))
    (files / EXAMPLE_FILE).write_bytes(msgspec.json.encode(example_of(inputs, outputs)))


def _write_reference(files: Path, spec: BundleSpec, runtime: Runtime, given: Tensors) -> None:
    if spec.options.get("batch") == WHOLE:
        raise LoadError("a model that takes no rows can't have a reference of rows")
    scores = None
    if spec.score is not None:
        scores = spec.score.of(np.asarray(runtime.predict(given)[spec.score.output]))
    ordered = [given[tensor.name] for tensor in spec.signature.inputs]
    names = spec.signature.feature_names()
    made = profile.build_profile(names, spec.signature.columns(ordered), scores)
    (files / REFERENCE_FILE).write_bytes(profile.encode(made))


def _rows_of(path: Path) -> Optional[Tensors]:
    if not path.exists():
        return None
    with np.load(path, allow_pickle=False) as found:
        return {name: found[name] for name in found.files}


def _installed() -> dict[str, str]:
    found = importlib.metadata.distributions()
    return {
        re.sub(r"[-_.]+", "-", one.metadata["Name"]).lower(): one.version
        for one in found
        if one.metadata["Name"]
    }


def main(arguments: list[str]) -> int:
    """0 if the bundle is complete now, 1 if it can't be; either way one line of JSON."""
    answers = os.dup(1)
    os.dup2(2, 1)  # what frameworks print must not come between
    folder = Path(arguments[0])
    try:
        draft = msgspec.json.decode((folder / "draft.json").read_bytes(), type=Draft)
        inputs, reference = _rows_of(folder / "inputs.npz"), _rows_of(folder / "reference.npz")
        spec = describe(folder, draft, inputs, reference)
        answer = Described(spec.runtime, versions=_installed())
    except LoadError as error:
        answer = Described(error=str(error))
    except Exception as error:  # noqa: BLE001  # models raise anything
        answer = Described(error=f"{type(error).__name__}: {str(error)[:600]}")
    os.write(answers, msgspec.json.encode(answer) + b"\n")
    return 1 if answer.error else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
