"""Write the classes of a package that a pickled model may name: `allowlist.py PACKAGE FOLDER`.

Runs where the package is installed (`uv run --with scikit-learn==1.7.2 python scripts/allowlist.py
sklearn FOLDER`); leaves `FOLDER/<package>-<minor version>.txt`. By introspection, never from
samples: estimators, kernels and splitters in the module that defines them, named internals, and
the helpers by which Cython unpickles. Tests and vendored modules are left out.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

BASES = {
    "sklearn": (
        "BaseEstimator Kernel BaseCrossValidator _BaseKFold BaseShuffleSplit "
        "_UnsupportedGroupCVMixin "
        "BaseLoss BaseLink DistanceMetric DistanceMetric64 DistanceMetric32 LossFunction "
        "CyLossFunction Criterion Splitter Regression Classification"
    ).split(),
    "lightgbm": ["LGBMModel", "Booster"],
    "xgboost": ["XGBModel", "Booster"],
    "catboost": ["CatBoost"],
}
NAMED = {
    "sklearn": (
        "Tree TreePredictor Bunch _BinMapper KDTree BallTree KDTree64 KDTree32 BallTree64 "
        "BallTree32 "
        "_CalibratedClassifier _SigmoidCalibration _PredictScorer _ProbaScorer _ThresholdScorer "
        "_Scorer MetaEstimatorMixin MetadataRequest MethodMetadataRequest Interval HalfLogitLink "
        "_ConstantPredictor _RepeatedSplits RepeatedKFold RepeatedStratifiedKFold PredefinedSplit "
        "DummyClassifier QuantileTransformer LossFunctionMixin newObj"
    ).split(),
}
SKIPPED = (".tests", ".externals", ".conftest", "._build_utils", ".setup", "._testing", ".dask")


def modules(top: ModuleType) -> Iterator[ModuleType]:
    yield top
    for found in pkgutil.walk_packages(top.__path__, f"{top.__name__}.", onerror=lambda _: None):
        if any(part in f"{found.name}." for part in [f"{one}." for one in SKIPPED]):
            continue
        try:
            yield importlib.import_module(found.name)
        except Exception as error:  # noqa: BLE001 - optional parts need what is not here
            sys.stderr.write(f"{found.name}: {error!r}\n")


def names(package: str, module: ModuleType) -> Iterator[str]:
    for name, thing in vars(module).items():
        if name.startswith("__pyx_unpickle_"):
            yield name
        if not inspect.isclass(thing) or thing.__module__ != module.__name__:
            if name == "newObj":
                yield name
            continue
        kinds = {kind.__name__ for kind in thing.__mro__}
        if thing.__qualname__ == name and (
            kinds & set(BASES[package]) or name in NAMED.get(package, ())
        ):
            yield name


def main(package: str, folder: Path) -> None:
    warnings.simplefilter("ignore")
    top = importlib.import_module(package)
    found = {
        f"{module.__name__} {name}" for module in modules(top) for name in names(package, module)
    }
    minor = ".".join(top.__version__.split(".")[:2])
    (folder / f"{package}-{minor}.txt").write_text("\n".join(sorted(found)) + "\n")
    sys.stdout.write(f"{package} {minor}: {len(found)}\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
