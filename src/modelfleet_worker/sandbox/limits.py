"""Environment, descriptors, rlimits: what takes no kernel feature."""

from __future__ import annotations

import os
import resource
import tempfile

from modelfleet_worker.sandbox.policy import Policy

_ALWAYS = {
    "HOME": "/nonexistent",
    "LOGNAME": "model",
    "USER": "model",
    "LANG": "C.UTF-8",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "JOBLIB_MULTIPROCESSING": "0",
    "CUDA_VISIBLE_DEVICES": "",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "MPLCONFIGDIR": "/nonexistent",
    "PYTHONDONTWRITEBYTECODE": "1",
}


def clear_environment(policy: Policy) -> None:
    """Nothing of the caller's variables is left, in Python or in C."""
    os.environ.clear()
    os.environ.update({**_ALWAYS, **policy.environment})
    if policy.write:
        os.environ["TMPDIR"] = policy.write[0]
    tempfile.tempdir = None  # whoever asked before would remember


def close_descriptors(policy: Policy) -> None:
    """All but 0, 1, 2 and those to keep; what the input was is gone, too."""
    kept = {0, 1, 2, *policy.keep}
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in kept:
            try:
                os.close(int(name))
            except OSError:
                continue  # the one that listed the folder
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)


def apply(policy: Policy) -> dict[str, int]:
    """Limits in force, by name. A lower limit that is in force already stays."""
    wanted = {
        "memory_bytes": (resource.RLIMIT_AS, policy.memory_bytes),
        "cpu_seconds": (resource.RLIMIT_CPU, policy.cpu_seconds),
        "file_bytes": (resource.RLIMIT_FSIZE, policy.file_bytes if policy.write else 0),
        "open_files": (resource.RLIMIT_NOFILE, policy.open_files),
        "core_bytes": (resource.RLIMIT_CORE, 0),
        "locked_bytes": (resource.RLIMIT_MEMLOCK, 0),
        "queue_bytes": (resource.RLIMIT_MSGQUEUE, 0),
    }
    if os.getuid() != 0:  # for root the kernel does not count
        wanted["threads"] = (resource.RLIMIT_NPROC, _threads_of_user() + policy.threads)
    return {name: _lower(kind, value) for name, (kind, value) in wanted.items()}


def _lower(kind: int, value: int) -> int:
    hard = resource.getrlimit(kind)[1]
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(kind, (value, value))
    return value


def _threads_of_user() -> int:
    """How many this user has now, in all processes."""
    me, found = os.getuid(), 0
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if os.stat(f"/proc/{name}").st_uid == me:
                    found += len(os.listdir(f"/proc/{name}/task"))
            except OSError:
                continue  # it ended meanwhile
    return found
