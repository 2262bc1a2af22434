"""Running code that nobody vouches for: a model that is loaded, described or converted.

`begin(policy)` takes away what a model does not need: environment, descriptors, memory without
end, files and the network (rlimits, Landlock). Frameworks are imported after it, because they
start threads and look around. `seal` then forbids new programs, processes, sockets and
everything that reaches into others (seccomp); only after that the model is loaded. Neither needs
root. What the kernel lacks is `missing` in the report, never left out in silence. `python -m
modelfleet_worker.sandbox POLICY MODULE ARGUMENTS...` runs a module that way.
"""

from __future__ import annotations

from modelfleet_worker.sandbox.enter import Sandbox, begin, import_all
from modelfleet_worker.sandbox.policy import Policy, Report, imports_of, memory_of, warning

__all__ = [
    "Policy",
    "Report",
    "Sandbox",
    "begin",
    "import_all",
    "imports_of",
    "memory_of",
    "warning",
]
