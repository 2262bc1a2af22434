"""What this process has: its Python, its modules, its distributions."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys


def own_python() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def is_here(module: str) -> bool:
    """Can this process import it?"""
    return importlib.util.find_spec(module) is not None


def pinned(*distributions: str) -> tuple[str, ...]:
    """Requirements: at the installed version, any version of what is not installed.

    A local version (`2.13.0+cpu`) is what one index calls it; others know only what precedes.
    """
    found = []
    for name in distributions:
        try:
            found.append(f"{name}=={importlib.metadata.version(name).partition('+')[0]}")
        except importlib.metadata.PackageNotFoundError:
            found.append(name)
    return tuple(found)
