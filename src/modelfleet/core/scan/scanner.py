"""From the globals of a file to a verdict, and to the requirements it hints at."""

from __future__ import annotations

import enum
import functools
import re
from dataclasses import dataclass
from pathlib import Path

from modelfleet.core.scan import containers
from modelfleet.core.scan.vm import Damaged, Global, Seen

_LISTS = Path(__file__).with_name("lists")
_HARMFUL = re.compile(
    r"(os|posix|nt|subprocess|sys|shutil|socket|ctypes|importlib|runpy|pty|code|codeop|commands"
    r"|webbrowser|http|urllib|requests|asyncio|multiprocessing|threading|signal|pickle|_pickle"
    r"|marshal|types|inspect|gc|builtins|__builtin__|operator|bdb|pdb|timeit|cProfile|profile|pip"
    r"|ensurepip|venv|zipimport|tempfile|pathlib|io|_io|fileinput|ftplib|smtplib|telnetlib|ssl"
    r"|platform|resource|uuid|idlelib|lib2to3|distutils|setuptools|pkgutil|dill|joblib\.externals"
    r"|numpy\.testing|numpy\.f2py|torch\.hub|torch\.jit|torch\.utils\.cpp_extension)(\..*)?"
)
_SYNONYMS = {
    "sklearn": ("sklearn", "scikit-learn"),
    "lightgbm": ("lightgbm", "lightgbm"),
    "xgboost": ("xgboost", "xgboost"),
    "catboost": ("catboost", "catboost"),
}


class Verdict(enum.StrEnum):
    CLEAN = "clean"
    """every global is one that models of a known framework are made of"""
    UNKNOWN = "unknown"
    """it names others: own classes, perhaps; nobody vouches for them"""
    HARMFUL = "harmful"
    """it names what runs programs, opens files or reaches the network"""
    DAMAGED = "damaged"
    """it can't be followed to its end, so nothing can be said of it"""


@dataclass(frozen=True)
class Findings:
    """reason: one sentence. unknown, harmful: `module.name`. root: class of the object, if known.
    packages: top-level modules. requirements: as well as the file tells them. features: of the
    outermost estimator."""

    verdict: Verdict
    reason: str
    unknown: tuple[str, ...] = ()
    harmful: tuple[str, ...] = ()
    root: str = ""
    packages: tuple[str, ...] = ()
    requirements: tuple[str, ...] = ()
    features: int | None = None


def scan(path: Path) -> Findings:
    """Look into one file. Never raises for what the file holds; OSError if it can't be read."""
    seen = Seen()
    try:
        containers.read(path, seen)
    except Damaged as error:
        return _judged(seen, str(error))
    return _judged(seen, "")


def _judged(seen: Seen, damage: str) -> Findings:
    harmful = sorted(one for one in seen.globals if not _core(one) and _is_harmful(one))
    unknown = sorted(one for one in seen.globals if not _is_known(one, seen) and one not in harmful)
    own_code = any(module.startswith("cloudpickle.") for module, _ in unknown) and not damage
    if own_code and all(_is_machinery(one) for one in harmful):
        verdict, reason = Verdict.UNKNOWN, "it brings code of its own (cloudpickle)"
        unknown = sorted([*unknown, *harmful])
        harmful = []
    elif harmful:
        verdict, reason = Verdict.HARMFUL, f"it would call {_named(harmful)} when it is loaded"
    elif damage:
        verdict, reason = Verdict.DAMAGED, damage
    elif seen.extensions:
        verdict, reason = Verdict.UNKNOWN, "it uses registered extension codes"
    elif unknown:
        verdict, reason = Verdict.UNKNOWN, _why_unknown(unknown, seen)
    else:
        verdict, reason = Verdict.CLEAN, "it names nothing but parts of known models"
    tops = list(dict.fromkeys(module.split(".")[0] for module, _ in sorted(seen.globals)))
    return Findings(
        verdict,
        reason,
        tuple(".".join(one) for one in unknown),
        tuple(".".join(one) for one in harmful),
        ".".join(seen.roots[-1]) if seen.roots else "",
        tuple(tops),
        _requirements(tops, seen),
        seen.features,
    )


def _named(found: list[Global]) -> str:
    shown = ", ".join(".".join(one) for one in found[:4])
    return shown if len(found) <= 4 else f"{shown} and {len(found) - 4} more"


def _why_unknown(unknown: list[Global], seen: Seen) -> str:
    for package, (_, distribution) in _SYNONYMS.items():
        version = seen.versions.get(distribution)
        mine = [one for one in unknown if one[0].split(".")[0] == package]
        if mine and version and not _list_for(package, version):
            return f"there is no list for {distribution} {version}"
    return f"it names {_named(unknown)}, which no list knows"


def _is_harmful(one: Global) -> bool:
    return bool(_HARMFUL.fullmatch(one[0])) or "__" in one[1].strip("_") or "." in one[1]


def _is_machinery(one: Global) -> bool:
    """What cloudpickle rebuilds functions and classes with."""
    return one[0] == "types" or one in (("builtins", "type"), ("builtins", "getattr"))


def _core(one: Global) -> bool:
    return " ".join(one) in _read_list("core.txt")


def _is_known(one: Global, seen: Seen) -> bool:
    if _core(one):
        return True
    package = one[0].split(".")[0]
    if package not in _SYNONYMS:
        return False
    version = seen.versions.get(_SYNONYMS[package][1])
    lists = [_list_for(package, version)] if version else _lists_of(package)
    return any(" ".join(one) in _read_list(name) for name in lists if name)


def _list_for(package: str, version: str) -> str:
    """The list's name for that version; empty if there is none."""
    name = f"{package}-{'.'.join(version.split('.')[:2])}.txt"
    return name if (_LISTS / name).exists() else ""


def _lists_of(package: str) -> list[str]:
    return sorted(path.name for path in _LISTS.glob(f"{package}-*.txt"))


@functools.cache
def _read_list(name: str) -> frozenset[str]:
    lines = (_LISTS / name).read_text("utf-8").splitlines()
    return frozenset(line for line in lines if line and not line.startswith("#"))


def _requirements(tops: list[str], seen: Seen) -> tuple[str, ...]:
    """Pins where the file tells the version, else names."""
    found = []
    for package, distribution in (*_SYNONYMS.values(), ("joblib", "joblib")):
        if package in tops:
            version = seen.versions.get(distribution)
            found.append(f"{distribution}=={version}" if version else distribution)
    for package in ("torch", "pandas", "polars", "imblearn", "cloudpickle"):
        if package in tops:
            found.append("imbalanced-learn" if package == "imblearn" else package)
    if "sklearn" not in tops and "lightgbm" in tops:
        found.append("scikit-learn")
    modules = {module for module, _ in seen.globals}
    if any(one.startswith("numpy._core") for one in modules):
        found.append("numpy>=2")
    elif any(one.startswith("numpy.core") for one in modules):
        found.append("numpy<2")
    elif "numpy" in tops:
        found.append("numpy")
    return tuple(sorted(found))
