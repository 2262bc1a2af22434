"""Engines keep N copies of a worker running and tell how they are.

`Engine` is the seam: `place`, `scale`, `drain`, `observe`. `local` is the engine of one machine:
the host agent, which also keeps the platform's own processes alive.
"""

from modelfleet.engines.engine import (
    Engine,
    Observed,
    PoolDemand,
    PoolObserved,
    ProcessObserved,
    ReplicaObserved,
)

__all__ = [
    "Engine",
    "Observed",
    "PoolDemand",
    "PoolObserved",
    "ProcessObserved",
    "ReplicaObserved",
]
