"""Laying documents over each other: JSON Merge Patch (RFC 7386), with the place of every value."""

from __future__ import annotations

from modelfleet.fleetfile.nodes import Node


def lay(below: Node | None, above: Node | None) -> Node | None:
    """`above` wins: mappings are merged, null takes a key away, everything else is replaced."""
    if above is None:
        return below
    if not isinstance(above.value, dict):
        return above
    if below is None or not isinstance(below.value, dict):
        below = Node({}, above.place, keys={})
    assert isinstance(below.value, dict)
    value, keys = dict(below.value), dict(below.keys or {})
    for name, node in above.value.items():
        place = (above.keys or {}).get(name, node.place)
        if node.value is None:
            value.pop(name, None)
            continue
        merged = lay(value.get(name), node)
        assert merged is not None
        value[name], keys[name] = merged, place
    return Node(value, above.place, keys=keys)
