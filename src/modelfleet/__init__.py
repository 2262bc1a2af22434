"""modelfleet: run a hundred or a thousand machine-learning models in production.

The rooms, from the ground up: `core`, `client`; `registry`, `lineage`, `identity`;
`serving`, `engines`, `telemetry`; `gates`, `rollouts`, `monitoring`; `reconcile`;
`api`, `web`, `cli`. `docs/architecture.md` walks through them.
"""

__version__ = "0.1.0"
