"""Expressions of the Common Expression Language, as the tree in which Envoy reads them."""

from __future__ import annotations

from itertools import count

Tree = dict[str, object]


def name(text: str) -> Tree:
    return {"ident_expr": {"name": text}}


def text(value: str) -> Tree:
    return {"const_expr": {"string_value": value}}


def number(value: int) -> Tree:
    return {"const_expr": {"int64_value": str(value)}}


def field(of: Tree, called: str) -> Tree:
    return {"select_expr": {"operand": of, "field": called}}


def call(function: str, *arguments: Tree, target: Tree | None = None) -> Tree:
    made: dict[str, object] = {"function": function, "args": list(arguments)}
    return {"call_expr": made if target is None else {**made, "target": target}}


def at(of: Tree, key: Tree) -> Tree:
    return call("_[_]", of, key)


def either(first: Tree, *others: Tree) -> Tree:
    """`first || ...`: what stands first is tried first."""
    return call("_||_", first, either(*others)) if others else first


def joined(first: Tree, *others: Tree) -> Tree:
    """Texts behind one another."""
    found = first
    for one in others:
        found = call("_+_", found, one)
    return found


def choose(condition: Tree, then: Tree, otherwise: Tree) -> Tree:
    return call("_?_:_", condition, then, otherwise)


def numbered(tree: Tree) -> Tree:
    """The same with an id in each expression, as Envoy asks for."""
    ids = count(1)

    def walk(part: object) -> object:
        if isinstance(part, list):
            return [walk(one) for one in part]
        if not isinstance(part, dict):
            return part
        walked = {key: walk(value) for key, value in part.items()}
        return (
            {"id": str(next(ids)), **walked} if any(k.endswith("_expr") for k in part) else walked
        )

    found = walk(tree)
    assert isinstance(found, dict)
    return found
