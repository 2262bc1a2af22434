"""What a pickle would import, read from its bytes: nothing is loaded."""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import sys
import zlib
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path

from modelfleet.client.saving.modules import installed

_NAMES = {"sklearn": "scikit-learn", "imblearn": "imbalanced-learn"}
"""of modules that this process does not have"""
_SKLEARN_LIKE = ("sklearn", "lightgbm", "xgboost", "catboost", "imblearn", "category_encoders")
_GLOBAL = re.compile(
    rb"\x8c.([A-Za-z_][\w.]*)\x94(?:\x8c.[\w.<>]+\x94|h.|j....)\x93"  # protocol 4 and newer
    rb"|c([A-Za-z_][\w.]*)\n[A-Za-z_][\w.]*\n",
    re.DOTALL,
)
_SKOPS = re.compile(rb'"__module__": "([A-Za-z_][\w.]*)"')
_PACKED: Mapping[bytes, Callable[[bytes], bytes]] = {
    b"\x1f\x8b": gzip.decompress,
    b"BZ": bz2.decompress,
    b"\xfd7": lzma.decompress,
    b"]\x00": lzma.decompress,
    b"x\x01": zlib.decompress,
    b"x\x5e": zlib.decompress,
    b"x\x9c": zlib.decompress,
    b"x\xda": zlib.decompress,
}
_IGNORED = {"cloudpickle", "joblib", *sys.stdlib_module_names}


def modules(path: Path) -> list[str]:
    """Top-level modules of what the file names, in order of appearance."""
    content = _content(path)
    pattern = _SKOPS if path.suffix == ".skops" else _GLOBAL
    names = [one[one.lastindex or 0].decode() for one in pattern.finditer(content)]
    tops = dict.fromkeys(name.split(".")[0] for name in names)
    return [name for name in tops if name not in _IGNORED and not name.startswith("_")]


def kind(path: Path) -> str:
    """`sklearn` if it begins with an estimator of that make, else `python`."""
    found = [name for name in modules(path) if name != "numpy"]
    return "sklearn" if found and found[0] in _SKLEARN_LIKE else "python"


def framed(path: Path) -> bool:
    """Does it remember the names of a frame's columns?"""
    return b"feature_names_in_" in _content(path)


def distributions(path: Path) -> list[str]:
    """What must be installed to read it."""
    known = installed()
    found = [known.get(name) or _NAMES.get(name, name) for name in modules(path)]
    extra = ["joblib"] if path.suffix == ".joblib" else []
    extra += ["skops"] if path.suffix == ".skops" else []
    extra += ["cloudpickle"] if b"cloudpickle.cloudpickle" in _content(path) else []
    return [one for one in dict.fromkeys([*found, *extra]) if one not in ("scikit-learn", "numpy")]


@lru_cache(maxsize=1)
def _content(path: Path) -> bytes:
    """The bytes, unpacked if joblib packed them. What can't be unpacked stays as it is."""
    content = path.read_bytes()
    unpack = _PACKED.get(content[:2])
    if unpack is None or path.suffix == ".skops":
        return content
    try:
        return unpack(content)
    except (OSError, EOFError, lzma.LZMAError, zlib.error):
        return content
