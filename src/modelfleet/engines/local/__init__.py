"""The engine of one machine.

`Agent` supervises processes and pools from its main thread; `keep` is the small foreground
parent that brings the agent back when it dies; `LocalEngine` is how the control plane speaks to
the agent, through files; `launch` and `confine` start a process as somebody who may do little.
"""

from modelfleet.engines.local.agent import Agent
from modelfleet.engines.local.confine import Confinement
from modelfleet.engines.local.engine import LocalEngine, read_demand, read_observed
from modelfleet.engines.local.keeper import keep, refuse_if_served
from modelfleet.engines.local.pools import Pulse, WorkerKit
from modelfleet.engines.local.processes import Files, Record, records
from modelfleet.engines.local.spec import ProcessSpec
from modelfleet.engines.local.stop import down

__all__ = [
    "Agent",
    "Confinement",
    "Files",
    "LocalEngine",
    "ProcessSpec",
    "Pulse",
    "Record",
    "WorkerKit",
    "down",
    "keep",
    "read_demand",
    "read_observed",
    "records",
    "refuse_if_served",
]
