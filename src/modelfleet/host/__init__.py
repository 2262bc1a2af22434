"""One machine's modelfleet: which processes it is made of, and how it is started and ended.

`run` is the foreground of `modelfleet up`; `down`, `restart`, `roll`, `status` and `tail` are for
other shells. The host agent (`python -m modelfleet.host`) supervises; `compose` says what.
"""

from modelfleet.host.ports import Ports, read_ports
from modelfleet.host.service import HostStatus, down, log_files, restart, roll, run, status, tail

__all__ = [
    "HostStatus",
    "Ports",
    "down",
    "log_files",
    "read_ports",
    "restart",
    "roll",
    "run",
    "status",
    "tail",
]
