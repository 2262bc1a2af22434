"""`python -m modelfleet_worker.sandbox POLICY MODULE ARGUMENTS...`: a module, sandboxed.

POLICY is JSON. The process replaces itself first if its environment holds anything: what it was
started with can be read from its own memory. The first line of output is the report: the model is
not loaded yet, so it can't have written it. What the module prints follows.
"""

from __future__ import annotations

import os
import runpy
import sys

import msgspec

from modelfleet_worker.sandbox.enter import begin, import_all
from modelfleet_worker.sandbox.policy import Policy

_HARMLESS = {"PYTHONPATH", "LC_CTYPE"}
"""the second is set by Python itself"""


def main() -> None:
    if os.environ.keys() - _HARMLESS:
        kept = {name: os.environ[name] for name in _HARMLESS if name in os.environ}
        os.execve(
            sys.executable, [sys.executable, "-m", "modelfleet_worker.sandbox", *sys.argv[1:]], kept
        )
    policy = msgspec.json.decode(sys.argv[1], type=Policy)
    sys.argv = sys.argv[2:]
    box = begin(policy)
    import_all(policy.imports)
    report = box.seal()
    os.write(1, msgspec.json.encode(report) + b"\n")
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
