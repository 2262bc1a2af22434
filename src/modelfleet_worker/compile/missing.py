"""Where scikit-learn's trees send missing values, which skl2onnx (1.20) does not write down.

Its trees take NaN since 1.3, whether or not training saw any. The graph's own nodes are only
touched if they are node for node those of the estimator; `probes` then prove the result.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Optional

import numpy as np

_TRACKS = "nodes_missing_value_tracks_true"
_NEEDED = {"nodes_treeids", "nodes_nodeids", "nodes_featureids", "nodes_modes"}


def write_missing(graph: Any, model: Any) -> None:
    """Complete the ensembles of trees of a graph, if they are this model's, in its order."""
    trees = list(_trees(model))
    if not all(hasattr(tree, "missing_go_to_left") for tree in trees):
        return
    found = []
    for ensemble in [one for one in graph.graph.node if one.op_type.startswith("TreeEnsemble")]:
        said = {one.name: one for one in ensemble.attribute}
        if not set(said) >= _NEEDED:
            return
        own = list(dict.fromkeys(said["nodes_treeids"].ints))
        if len(own) > len(trees):
            return
        tracks = _tracks(said, dict(zip(own, trees)))
        trees = trees[len(own) :]
        if tracks is None:
            return
        found.append((ensemble, tracks))
    if not trees:
        for ensemble, tracks in found:
            _set(ensemble, tracks)


def _tracks(said: dict[str, Any], trees: dict[int, Any]) -> Optional[list[int]]:
    """1 for each node that sends missing values to where it is true; None if a node differs."""
    tracks = []
    for tree, node, feature, mode in zip(
        said["nodes_treeids"].ints,
        said["nodes_nodeids"].ints,
        said["nodes_featureids"].ints,
        said["nodes_modes"].strings,
    ):
        own = trees[tree]
        if mode == b"LEAF":
            tracks.append(0)
        elif mode == b"BRANCH_LEQ" and node < own.node_count and own.feature[node] == feature:
            tracks.append(int(own.missing_go_to_left[node]))
        else:
            return None
    return tracks


def _set(ensemble: Any, tracks: list[int]) -> None:
    from onnx import helper

    for attribute in [one for one in ensemble.attribute if one.name == _TRACKS]:
        ensemble.attribute.remove(attribute)
    ensemble.attribute.append(helper.make_attribute(_TRACKS, tracks))


def _trees(model: Any) -> Iterator[Any]:
    """Of a tree or a forest, whatever it stands behind or was searched by."""
    model = getattr(model, "best_estimator_", model)
    if hasattr(model, "steps"):
        model = model.steps[-1][1]
    if hasattr(model, "tree_"):
        yield model.tree_
        return
    found = getattr(model, "estimators_", None)
    for one in np.ravel(found) if found is not None else ():
        if hasattr(one, "tree_"):
            yield one.tree_
