"""What a living object is made of: the modules of all that its pickle would name.

Modules of installed packages become requirements; one's own (a notebook, a script, a module beside
it, a package installed from a folder) travel inside the pickle, by value.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import io
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

from modelfleet.client.errors import ClientError

_LOCAL = ("__main__", "__mp_main__")
_BOUND = re.compile(r"<(lambda|locals)>")


@dataclass(frozen=True)
class Survey:
    """distributions: what is installed from an index, by name. own: top-level modules that are
    not. nameless: there are functions that can't be found by a name (lambdas, local ones)."""

    distributions: tuple[str, ...] = ()
    own: tuple[str, ...] = ()
    nameless: bool = False

    @property
    def by_value(self) -> bool:
        """A plain pickle could not be read elsewhere."""
        return self.nameless or bool(self.own)


def survey(model: object) -> Survey:
    """Walks the object as a pickle does. Raises whatever pickling it raises."""
    walked = _walk(model, ())
    own = _own(walked.modules)
    if own:  # and what their code uses
        walked = _walk(model, own)
        own = _own(walked.modules)
    known = installed()
    found = {known[one] for one in _tops(walked.modules) if one in known}
    return Survey(tuple(sorted(found)), own, walked.nameless)


def pickled(model: object, own: Iterable[str]) -> bytes:
    """The object, with the code of those modules."""
    with _by_value(own):
        return bytes(_cloudpickle().dumps(model))


@dataclass(frozen=True)
class _Walked:
    modules: frozenset[str]
    nameless: bool


def _walk(model: object, own: Iterable[str]) -> _Walked:
    modules: set[str] = set()
    nameless = False

    class Walker(_cloudpickle().Pickler):  # type: ignore[misc]
        def persistent_id(self, one: Any) -> None:
            nonlocal nameless
            if isinstance(one, ModuleType):
                modules.add(one.__name__)
                return
            known = one if hasattr(one, "__qualname__") else type(one)
            modules.add(str(getattr(known, "__module__", None) or ""))
            nameless = nameless or bool(_BOUND.search(str(getattr(known, "__qualname__", ""))))

    with _by_value(own):
        Walker(_Nowhere()).dump(model)
    return _Walked(frozenset(modules), nameless)


@contextlib.contextmanager
def _by_value(own: Iterable[str]) -> Iterator[None]:
    held = [sys.modules[name] for name in own if name in sys.modules and name not in _LOCAL]
    for module in held:
        _cloudpickle().register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in held:
            _cloudpickle().unregister_pickle_by_value(module)


def _cloudpickle() -> Any:
    """It, or the copy that comes with joblib, and so with scikit-learn."""
    for name in ("cloudpickle", "joblib.externals.cloudpickle"):
        with contextlib.suppress(ModuleNotFoundError):
            return importlib.import_module(name)
    raise ClientError("cloudpickle is needed to keep this object: pip install cloudpickle.")


class _Nowhere(io.RawIOBase):
    """Takes everything and keeps nothing."""

    def write(self, content: Any) -> int:
        return memoryview(content).nbytes


def _tops(modules: Iterable[str]) -> set[str]:
    return {name.split(".")[0] for name in modules if name}


def _own(modules: Iterable[str]) -> tuple[str, ...]:
    known = {*sys.stdlib_module_names, *sys.builtin_module_names, *installed(), "cloudpickle"}
    return tuple(sorted(name for name in _tops(modules) - known if name in sys.modules))


@cache
def installed() -> Mapping[str, str]:
    """Distributions by top-level module, without those that lie in a folder of somebody's."""
    return {
        module: names[0]
        for module, names in importlib.metadata.packages_distributions().items()
        if not _is_local(names[0])
    }


def _is_local(distribution: str) -> bool:
    said = importlib.metadata.distribution(distribution).read_text("direct_url.json")
    return said is not None and "dir_info" in json.loads(said)
