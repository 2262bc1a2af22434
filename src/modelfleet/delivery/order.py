"""Who uses whom, and in which order things are done."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence

from modelfleet.delivery.objects import FleetObject, Key
from modelfleet.delivery.wanted import Wanted


def references(one: Wanted) -> set[str]:
    plain = one.plain
    found = {use["model"] for use in plain.get("uses", ())}
    return found | {c["model"] for c in plain.get("consumers", ()) if "model" in c}


def users_of(known: Collection[FleetObject], staying: Collection[Key]) -> dict[str, list[str]]:
    """Documents that stay and take answers of a model, by its name."""
    found: dict[str, list[str]] = defaultdict(list)
    for one in known:
        if (one.kind, one.name) in staying:
            for use in one.document.get("uses", ()):
                found[use["model"]].append(one.name)
    return found


def in_order(wanted: Sequence[Wanted]) -> list[Wanted]:
    """Models before those that use them, pipelines last."""
    models = {one.key[1]: one for one in wanted if one.key[0] == "Model"}
    before: dict[str, set[str]] = {name: set() for name in models}
    for name, one in models.items():
        before[name] |= {use["model"] for use in one.plain.get("uses", ())} & models.keys()
        for consumer in one.plain.get("consumers", ()):
            if consumer.get("model") in before:
                before[consumer["model"]].add(name)
    done: dict[str, None] = {}
    left = dict(before)
    while left:
        ready = sorted(name for name, needs in left.items() if needs <= done.keys())
        if not ready:  # a circle: it is told as such, and nothing is applied
            ready = sorted(left)
        done |= dict.fromkeys(ready)
        for name in ready:
            left.pop(name)
    pipelines = sorted((one for one in wanted if one.key[0] != "Model"), key=lambda one: one.key)
    return [*(models[name] for name in done), *pipelines]


def last_first(known: Collection[FleetObject]) -> list[FleetObject]:
    """Pipelines, then models before those that they use."""
    uses = {one.name: {u["model"] for u in one.document.get("uses", ())} for one in known}

    def depth(name: str, seen: frozenset[str] = frozenset()) -> int:
        if name in seen:
            return 0
        below = uses.get(name, set()) & uses.keys()
        return 1 + max((depth(one, seen | {name}) for one in below), default=0)

    return sorted(known, key=lambda one: (one.kind != "Pipeline", -depth(one.name), one.name))
