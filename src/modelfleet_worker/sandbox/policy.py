"""What a sandboxed process may have, and what it was really denied."""

from __future__ import annotations

from typing import Optional

import msgspec

GIB = 1 << 30


class Policy(msgspec.Struct, frozen=True):
    """read, write: paths beside the interpreter and its libraries; nothing else can be opened.

    memory_bytes: address space. cpu_seconds: of the process; the wall clock is the parent's.
    file_bytes: the largest file it may write; 0 without `write`. threads: how many the user may
    have beside those that run already. keep: descriptors that stay open beside 0, 1 and 2.
    environment: all variables it sees. imports: modules to import before it is sealed.
    """

    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    memory_bytes: int = 4 * GIB
    cpu_seconds: int = 60
    file_bytes: int = 2 * GIB
    open_files: int = 256
    threads: int = 256
    keep: tuple[int, ...] = ()
    environment: dict[str, str] = {}
    imports: tuple[str, ...] = ()


class Report(msgspec.Struct, frozen=True):
    """What was applied. landlock_abi: 0 if the kernel has none. seccomp: the machine whose filter
    is in force, empty if there is none. missing: what could not be denied, in words."""

    landlock_abi: int = 0
    files: bool = False
    tcp: bool = False
    scoped: bool = False
    seccomp: str = ""
    limits: dict[str, int] = {}
    uid: int = -1
    missing: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        return not self.missing


def warning(report: Optional[Report]) -> str:
    """The sentence to shout if a report is not complete; empty if all is well."""
    if report is None:
        return "MODEL CODE RAN WITHOUT A SANDBOX: it could read and change what this user can."
    if report.complete:
        return ""
    return f"THE SANDBOX IS WEAKER THAN IT SHOULD BE on this kernel: {'; '.join(report.missing)}."


_ROOMY = ("torch", "tensorflow", "keras", "mlflow", "python")
"""runtimes whose libraries map much more memory than they use"""
_TREES = ("numpy", "joblib", "sklearn", "lightgbm", "xgboost")
_IMPORTS = {
    "mlflow": (*_TREES, "pandas", "mlflow.pyfunc"),
    "sklearn": _TREES,
    "python": ("numpy", "joblib", "cloudpickle"),
}


def imports_of(runtime: str, module: str) -> tuple[str, ...]:
    """What to import before models of that runtime are loaded; module: its framework's."""
    return _IMPORTS.get(runtime, ("numpy", module))


def memory_of(runtime: str, size: int) -> int:
    """The address space for a model of `size` bytes of files."""
    return (16 if runtime in _ROOMY else 4) * GIB + 4 * size
