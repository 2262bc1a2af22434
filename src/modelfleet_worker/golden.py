"""`python -m modelfleet_worker.golden VERSION MEMORY_MB`: the answer to a bundle's golden inputs.

VERSION is a `VersionSpec` in JSON. Runs as `measure` does; writes one line of JSON, an `Answer`,
and after it the output arrays as .npz (text as fixed-width text, so that it holds no pickles).
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import os
import platform
import sys
import time
import warnings
from pathlib import Path

import msgspec
import numpy as np

from modelfleet_worker import log
from modelfleet_worker.batch import end_with, limit_memory, own_stdout
from modelfleet_worker.loading import load
from modelfleet_worker.wire.desired import VersionSpec
from modelfleet_worker.wire.signature import Array
from modelfleet_worker.wire.spec import read_example


class Answer(msgspec.Struct, frozen=True):
    """outputs: sha256 of each array's type, shape and bytes; seconds to load, and of the call."""

    outputs: dict[str, str] = {}
    rows: int = 0
    python: str = ""
    packages: dict[str, str] = {}
    """of all that is installed, by name"""
    load_s: float = 0.0
    call_s: float = 0.0
    made_up: bool = False
    """nobody gave golden rows; they were drawn at random when the version was registered"""
    error: str = ""


def answer(version: VersionSpec) -> tuple[Answer, bytes]:
    """The answer and its arrays. LoadError, BundleCorrupt, or whatever the model raises."""
    loaded = load(version)
    signature = loaded.spec.signature
    inputs, _ = read_example(Path(version.path)).arrays(signature)
    rows = len(next(iter(inputs.values())))
    begun = time.perf_counter()
    found = loaded.conformer.apply(loaded.runtime.predict(inputs), rows)
    call_s = time.perf_counter() - begun
    arrays = {
        output.name: _plain(np.asarray(array)) for output, array in zip(signature.outputs, found)
    }
    stream = io.BytesIO()
    np.savez(stream, **arrays)  # type: ignore[arg-type]  # numpy's stubs take its options for arrays
    said = Answer(
        outputs={name: digest_of(array) for name, array in arrays.items()},
        rows=rows,
        python=platform.python_version(),
        packages=installed(),
        load_s=loaded.load_s,
        call_s=call_s,
        made_up=loaded.spec.options.get("example") == "made up",
    )
    return said, stream.getvalue()


def digest_of(array: Array) -> str:
    """sha256 over type, shape and bytes: equal for what is bitwise the same."""
    head = f"{array.dtype.str} {array.shape} ".encode()
    return hashlib.sha256(head + np.ascontiguousarray(array).tobytes()).hexdigest()


def installed() -> dict[str, str]:
    found = ((one.metadata["Name"], one.version) for one in importlib.metadata.distributions())
    return {str(name): version for name, version in sorted(found, key=str) if name}


def _plain(array: Array) -> Array:
    return array.astype(str) if array.dtype.kind == "O" else array


def main() -> None:
    end_with(os.getppid())
    told = own_stdout()
    warnings.simplefilter("ignore")
    version = msgspec.json.decode(sys.argv[1], type=VersionSpec)
    limit_memory(int(sys.argv[2]))
    arrays = b""
    try:
        found, arrays = answer(version)
    except BaseException as error:  # noqa: BLE001  # whatever a model raises
        found = Answer(error=log.describe(error))
    told.write(msgspec.json.encode(found) + b"\n" + arrays)
    told.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
