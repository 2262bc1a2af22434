"""How things hang together: typed edges between datasets, runs, versions and endpoints.

Verbs: `add_edge` (in the caller's transaction), `LineageService.around`, `upstream`, `downstream`;
`declare` and `withdraw` for what others say of datasets, feature views and applications.
"""

from modelfleet.lineage.declared import Declared, declare, declared, withdraw
from modelfleet.lineage.service import (
    DEPLOYED,
    Edge,
    LineageService,
    Node,
    add_edge,
    edges_from,
    feeds_between,
    remove_edges,
    rename_node,
)

__all__ = [
    "DEPLOYED",
    "Declared",
    "Edge",
    "LineageService",
    "Node",
    "add_edge",
    "declare",
    "declared",
    "edges_from",
    "feeds_between",
    "remove_edges",
    "rename_node",
    "withdraw",
]
