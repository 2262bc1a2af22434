"""What a pickle would import, read from its bytes: nothing is loaded."""

from __future__ import annotations

import re
from pathlib import Path

_NAMES = {
    "sklearn": "scikit-learn",
    "lightgbm": "lightgbm",
    "xgboost": "xgboost",
    "catboost": "catboost",
    "pandas": "pandas",
    "polars": "polars",
    "torch": "torch",
    "imblearn": "imbalanced-learn",
}
_SKLEARN_LIKE = ("sklearn", "lightgbm", "xgboost", "catboost", "imblearn")
_MODULE = re.compile(rb"(?<![\w.])(" + "|".join(_NAMES).encode() + rb")(?=\.[a-z_])")


def modules(path: Path) -> list[str]:
    """Top-level modules of the known libraries that the file names, in order of appearance."""
    found = [match.decode() for match in _MODULE.findall(path.read_bytes())]
    return list(dict.fromkeys(found))


def kind(path: Path) -> str:
    """`sklearn` if it begins with an estimator of that make, else `python`."""
    found = modules(path)
    return "sklearn" if found and found[0] in _SKLEARN_LIKE else "python"


def distributions(path: Path) -> list[str]:
    """What must be installed to read it."""
    found = [_NAMES[name] for name in modules(path)]
    extra = ["joblib"] if path.suffix == ".joblib" else []
    extra += ["skops"] if path.suffix == ".skops" else []
    return [name for name in dict.fromkeys([*found, *extra]) if name != "scikit-learn"]
