"""What of a model's outputs is a label, a score or a number, and the truth beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelfleet.core.errors import InvalidInput
from modelfleet.registry.signature import BundleInfo
from modelfleet.serving.lab import Table

Array = NDArray[Any]


@dataclass(frozen=True)
class Truth:
    """Classes of a target, in order, and the code of each row."""

    classes: list[Any]
    codes: NDArray[np.intp]

    def positive(self, wanted: object) -> int:
        """The code of the class that counts. Raises `InvalidInput`."""
        if wanted is not None:
            found = [k for k, one in enumerate(self.classes) if _same(one, wanted)]
            if not found:
                raise InvalidInput(
                    f"The target has no class {wanted!r}.", hint=f"It has {_some(self.classes)}."
                )
            return found[0]
        if len(self.classes) > 2:
            raise InvalidInput(
                f"The target has {len(self.classes)} classes: say which is `positive`."
            )
        return len(self.classes) - 1


def column(table: Table, name: str, what: str) -> Array:
    """Raises `InvalidInput` if the data lack it."""
    if name not in table:
        raise InvalidInput(
            f"The data have no column {name!r} ({what}).", hint=f"They have {_some(list(table))}."
        )
    return table[name]


def numbers(values: Array, what: str) -> NDArray[np.float64]:
    """Raises `InvalidInput` if it is none."""
    flat = values.reshape(len(values), -1)
    if flat.shape[1] != 1:
        raise InvalidInput(f"{what} has {flat.shape[1]} values in each row, not one.")
    try:
        return flat[:, 0].astype(np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{what} holds no numbers: {error}") from error


def truth_of(values: Array, known: object = None) -> Truth:
    """known: the model's own list of classes, if it has one."""
    plain = _comparable(values)
    classes = sorted(set(plain.tolist()), key=lambda one: (isinstance(one, str), one))
    if isinstance(known, list) and all(one in _keys(known) for one in classes):
        classes = _keys(known)
    if len(classes) > 1000:
        raise InvalidInput(f"The target has {len(classes)} different values: these are no classes.")
    return Truth(classes, codes_of(values, classes))


def codes_of(values: Array, classes: list[Any]) -> NDArray[np.intp]:
    """The place of each value among the classes; -1 for what is none."""
    plain = _comparable(values)
    place = {one: k for k, one in enumerate(classes)}
    if classes and isinstance(classes[0], str) and plain.dtype.kind != "O":
        plain = np.array([_text(one) for one in plain.tolist()], dtype=object)
    elif classes and not isinstance(classes[0], str) and plain.dtype.kind == "O":
        plain = np.array([_number(one) for one in plain.tolist()], dtype=object)
    return np.array([place.get(one, -1) for one in plain.tolist()], dtype=np.intp)


def labels(outputs: Table, info: BundleInfo, wanted: str, truth: Truth) -> NDArray[np.intp]:
    """The class that the model names in each row, as codes of the truth."""
    if wanted:
        chosen = column(outputs, wanted, "an output of the model")
        if chosen.ndim == 1 and chosen.dtype.kind != "f":
            return codes_of(chosen, truth.classes)
    for name in ("label", *outputs):
        found = outputs.get(name)
        if found is not None and not wanted and found.ndim == 1 and found.dtype.kind in "OUSiub":
            return codes_of(found, truth.classes)
    probability = _probability(outputs, wanted)
    if probability is not None and probability.shape[1] == len(truth.classes):
        return np.asarray(probability.argmax(axis=1), dtype=np.intp)
    if len(truth.classes) == 2:
        return (scores(outputs, info, wanted, truth, 1) >= 0.5).astype(np.intp)
    if not wanted:
        for found in outputs.values():
            if found.ndim == 1:
                return codes_of(found, truth.classes)
    raise InvalidInput("No output of the model is a class of the target.", hint="Name its output.")


def scores(
    outputs: Table, info: BundleInfo, wanted: str, truth: Truth, positive: int
) -> NDArray[np.float64]:
    """How much the model believes in the class that counts."""
    probability = _probability(outputs, wanted)
    if probability is not None and probability.shape[1] == len(truth.classes):
        return np.asarray(probability[:, positive], dtype=np.float64)
    if wanted:
        found = numbers(column(outputs, wanted, "an output of the model"), f"The output {wanted}")
    elif info.score is not None and info.score.output in outputs:
        array = outputs[info.score.output]
        found = numbers(array if array.ndim == 1 else array[:, [info.score.column or 0]], "score")
    else:
        floats = [a for a in outputs.values() if a.dtype.kind == "f" and a.size == len(a)]
        if not floats:
            raise InvalidInput("No output of the model is a score.", hint="Name its output.")
        found = numbers(floats[0], "The score")
    return found if positive == len(truth.classes) - 1 else 1 - found


def probabilities(outputs: Table, wanted: str, truth: Truth) -> NDArray[np.float64]:
    found = _probability(outputs, wanted)
    if found is None or found.shape[1] != len(truth.classes):
        raise InvalidInput(f"No output has a probability for each of {len(truth.classes)} classes.")
    return np.asarray(found, dtype=np.float64)


def number(outputs: Table, info: BundleInfo, wanted: str) -> NDArray[np.float64]:
    """The number that the model predicts."""
    if wanted:
        return numbers(column(outputs, wanted, "an output of the model"), f"The output {wanted}")
    for found in outputs.values():
        if found.dtype.kind in "fiu" and found.size == len(found):
            return numbers(found, "The output")
    raise InvalidInput("No output of the model is a number.", hint="Name its output.")


def _probability(outputs: Table, wanted: str) -> Array | None:
    names = [wanted] if wanted else [name for name in outputs if "probabilit" in name]
    for name in names:
        found = outputs.get(name)
        if found is not None and found.ndim == 2 and found.dtype.kind == "f":
            return found
    return None


def _comparable(values: Array) -> Array:
    """Texts, or numbers; whole ones without a fraction."""
    flat = values.reshape(len(values), -1)[:, 0] if values.ndim > 1 else values
    if flat.dtype.kind in "OUS":
        return np.array([_text(one) for one in flat.tolist()], dtype=object)
    if flat.dtype.kind == "f" and np.isfinite(flat).all() and (flat == np.floor(flat)).all():
        return flat.astype(np.int64)
    return flat.astype(np.int64) if flat.dtype.kind == "b" else flat


def _keys(known: list[Any]) -> list[Any]:
    return [
        int(one) if isinstance(one, (bool, float)) and one == int(one) else one for one in known
    ]


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return "" if value is None else str(value)


def _number(value: str) -> object:
    try:
        found = float(value)
    except ValueError:
        return value
    return int(found) if found.is_integer() else found


def _same(one: object, other: object) -> bool:
    return one == other or _text(one) == _text(other)


def _some(names: list[Any]) -> str:
    shown = ", ".join(map(str, names[:12]))
    return shown + (" ..." if len(names) > 12 else "")


def texts(values: Array) -> list[str]:
    """Values of a column as the names of slices or groups."""
    flat = values.reshape(len(values), -1)[:, 0] if values.ndim > 1 else values
    if flat.dtype.kind == "f":
        return ["missing" if one != one else f"{one:g}" for one in flat.tolist()]
    return ["missing" if one is None else _text(one) for one in flat.tolist()]
