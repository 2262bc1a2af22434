"""Rollouts of models that depend on each other, moved as one. Pure.

All are ready and have passed their gates before any moves; they step together; when one goes back
all do, those that use others first; all are promoted in one transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from graphlib import CycleError, TopologicalSorter

from modelfleet.core.errors import InvalidInput
from modelfleet.rollouts.step import AT_A_STEP, ENDED, UNMOVED, Move, State, Traffic
from modelfleet.rollouts.store import Row

_BACK = frozenset({State.ROLLING_BACK, State.ROLLED_BACK, State.CANCELLED, State.SUPERSEDED})


def in_order(uses: Mapping[str, Sequence[str]]) -> Sequence[str]:
    """Names so that each comes after those that it uses. Raises `InvalidInput` for a cycle."""
    try:
        return tuple(TopologicalSorter(uses).static_order())
    except CycleError as error:
        circle = " -> ".join(reversed(error.args[1]))
        raise InvalidInput(f"These models use each other in a circle: {circle}.") from error


def together(
    members: Sequence[Row], moves: Mapping[str, Move | None], waits: Mapping[str, str]
) -> tuple[dict[str, Move | None], dict[str, str]]:
    """What each member (by id) may do, of what each wants, and what it waits for instead.

    members: all of the group, also those that ended.
    """
    live = [one for one in members if one.state not in ENDED]
    cause = _going_back(members, moves)
    if cause:
        return _back_in_order(members, live, moves, cause, waits)
    allowed: dict[str, Move | None] = {}
    told = dict(waits)
    common = _common(live, moves)
    for one in live:
        move = moves.get(one.id)
        if move is None or common or not _moves_on(one, move):
            allowed[one.id] = move
            continue
        allowed[one.id] = None
        others = ", ".join(m.endpoint for m in live if m.id != one.id and not _same(one, m, moves))
        told[one.id] = f"Waits for the others of its group: {others}."
    return allowed, told


def _going_back(members: Sequence[Row], moves: Mapping[str, Move | None]) -> str:
    for one in members:
        move = moves.get(one.id)
        if one.state in _BACK:
            return f"{one.endpoint} went back: {one.sentence}"
        if move is not None and move.state in _BACK:
            return f"{one.endpoint} goes back: {move.sentence}"
    return ""


def _back_in_order(
    members: Sequence[Row],
    live: Sequence[Row],
    moves: Mapping[str, Move | None],
    cause: str,
    waits: Mapping[str, str],
) -> tuple[dict[str, Move | None], dict[str, str]]:
    """A member goes back once all that use it are back."""
    allowed: dict[str, Move | None] = {}
    told = dict(waits)
    for one in live:
        move = moves.get(one.id)
        if one.state in UNMOVED:
            ends = move is not None and move.state in _BACK
            allowed[one.id] = move if ends else Move(State.CANCELLED, one.step, cause)
        elif one.state is State.ROLLING_BACK:
            allowed[one.id] = move
        else:
            users = [m for m in members if one.id in m.after and m.state not in ENDED]
            if users:
                allowed[one.id] = None
                names = ", ".join(m.endpoint for m in users)
                told[one.id] = f"Goes back once those that use it are back: {names}."
            elif move is not None and move.state in _BACK:
                allowed[one.id] = move
            else:
                allowed[one.id] = Move(State.ROLLING_BACK, one.step, cause, Traffic.STABLE)
    return allowed, told


def _common(live: Sequence[Row], moves: Mapping[str, Move | None]) -> bool:
    """Whether all want the same step onwards."""
    wanted = {
        (move.state, move.step, move.traffic)
        for one in live
        if (move := moves.get(one.id)) is not None and _moves_on(one, move)
    }
    return len(wanted) == 1 and all(
        (move := moves.get(one.id)) is not None and _moves_on(one, move) for one in live
    )


def _moves_on(one: Row, move: Move) -> bool:
    if move.state is State.GATING or move.tells or move.asks or move.resumes:
        return False
    if move.state in (State.PAUSED, State.FROZEN):
        return False
    onwards = (State.STEPPING, State.AWAITING_APPROVAL, State.BAKING, State.SUCCEEDED)
    return move.state in onwards and (one.state in UNMOVED | AT_A_STEP | {State.BAKING})


def _same(one: Row, other: Row, moves: Mapping[str, Move | None]) -> bool:
    """Whether the other wants to move on as well."""
    move = moves.get(other.id)
    return move is not None and _moves_on(replace(other), move)
