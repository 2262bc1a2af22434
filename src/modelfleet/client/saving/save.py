"""The one verb: whatever the model is, its bundle."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from modelfleet.client.saving import formats, live, objects, pickles, probe
from modelfleet.client.saving.drafts import Code, Draft
from modelfleet.client.saving.installed import pinned
from modelfleet.client.saving.objects import Saved, tensors

if TYPE_CHECKING:
    from modelfleet_worker.wire.signature import Array


def save(
    model: object,
    example: object = None,
    *,
    features: Sequence[str] | None = None,
    reference: object | None = None,
    requirements: Sequence[str] | None = None,
    python: str | None = None,
    refuse_missing: bool | None = None,
    kind: str | None = None,
    source: Path | str | None = None,
    class_name: str | None = None,
    arguments: Mapping[str, object] | None = None,
    sandboxed: bool = True,
    tell: Callable[[str], None] = lambda said: None,
    work: Path,
) -> Saved:
    """Bundle files for `model`: an object, or the path of a saved one.

    example: a matrix [rows, features], or a mapping of input name to values [rows, ...]; up to
    256 rows are kept as golden rows. Paths whose format tells the inputs need none: rows are made
    up then. reference: the same shape, the rows that monitoring compares production with
    (training data). requirements: defaults to what the framework needs, at the versions installed
    here. refuse_missing: requests with missing values (NaN) are refused; by default they are if
    the model itself raises for them. kind: of a path, where it can't be told. source, class_name,
    arguments: the Python file with the module class of a PyTorch state dict (or the custom layers
    of a Keras model), and what its constructor gets. sandboxed: a path's model can open nothing but
    its own files, and no connection, while it is asked. tell: hears what takes long.

    Raises `TypeError` for an object that nobody here knows, `ClientError` if the model can't be
    read or does not answer its example.
    """
    if not isinstance(model, (str, Path)) and objects.knows(model, example) and source is None:
        return objects.save(
            model,
            example,
            features=features,
            reference=reference,
            requirements=requirements,
            refuse_missing=refuse_missing,
            work=work,
        )
    code = Code(Path(source) if source is not None else None, class_name, dict(arguments or {}))
    rows = None if example is None else tensors(example)
    draft = _draft(model, kind, code, rows, work)
    if draft.runtime == "sklearn" and rows is not None and _columns(rows):
        framed = pickles.framed(draft.folder / "files" / draft.artifact)
        draft.requirements += pinned("pandas") if framed else ()
    if requirements is not None:
        draft.requirements = tuple(requirements)
        draft.droppable = ()
    if python is not None:
        draft.python = python
    draft.features = tuple(features) if features is not None else None
    draft.refuse_missing = refuse_missing
    return probe.complete(
        draft,
        rows,
        None if reference is None else tensors(reference),
        given=requirements is not None or python is not None,
        sandboxed=sandboxed,
        tell=tell,
    )


def _columns(rows: Mapping[str, Array]) -> bool:
    """One tensor for each column, as against a matrix."""
    return all(array.ndim == 1 for array in rows.values())


def _draft(
    model: object, kind: str | None, code: Code, rows: Mapping[str, object] | None, work: Path
) -> Draft:
    folder = work / "draft"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "files").mkdir(parents=True)
    if isinstance(model, (str, Path)):
        return formats.draft(Path(model), kind, code, folder)
    return live.draft(model, code, rows, folder)
