"""How things hang together: typed edges between datasets, runs, versions and endpoints.

Verbs: `add_edge` (in the caller's transaction), `LineageService.around`, `upstream`.
"""

from modelfleet.lineage.service import (
    Edge,
    LineageService,
    Node,
    add_edge,
    edges_from,
    remove_edges,
    rename_node,
)

__all__ = [
    "Edge",
    "LineageService",
    "Node",
    "add_edge",
    "edges_from",
    "remove_edges",
    "rename_node",
]
