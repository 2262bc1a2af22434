"""A plan as people read it: on a terminal, or in a pull request."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from modelfleet.fleetfile.documents import KINDS
from modelfleet.fleetfile.text import pretty

_SIGN = {"create": "+", "update": "~", "delete": "-", "record": "=", "none": " "}
_COLOR = {"+": "green", "~": "yellow", "-": "red"}
_CAUSE = {
    "file": "",
    "drift": "drift: changed outside of files, goes back",
    "both": "drift: changed outside of files as well",
}
_WIDTH = 60
_POSITION = re.compile(r"\[\d+\]")


def text(plan: Mapping[str, Any]) -> Iterator[str]:
    """Lines for a terminal."""
    shown = [one for one in plan["objects"] if _worth(one)]
    for one in shown:
        sign = _SIGN[one["action"]]
        applied = f" (generation {one['generation']})" if one["generation"] else ""
        yield click.style(
            f"{sign} {one['kind']} {one['name']}{applied}", _COLOR.get(sign), bold=True
        )
        for change in one["changes"]:
            cause = _why(change)
            line = f"    {change['op']} {change['path']}: {_values(one['kind'], change)}"
            yield click.style(line, _COLOR[change["op"]]) + (f"  ({cause})" if cause else "")
        yield from (f"    {line}" for line in _story(one))
        yield ""
    yield summary(plan)


def markdown(plan: Mapping[str, Any]) -> Iterator[str]:
    """For pull requests."""
    stage = f", stage {plan['stage']}" if plan["stage"] else ""
    yield f"### Plan of fleet `{plan['fleet']}`{stage}"
    yield ""
    yield summary(plan)
    yield ""
    for one in plan["objects"]:
        if not _worth(one):
            continue
        yield f"<details open><summary><code>{_SIGN[one['action']]}</code> {one['kind']} "
        yield f"<b>{_escaped(one['name'])}</b></summary>"
        yield ""
        if one["changes"]:
            yield "| | field | before | after | |"
            yield "|---|---|---|---|---|"
            for change in one["changes"]:
                before, after = (
                    f"`{_cell(_value(one['kind'], change['path'], change[side]))}`"
                    if change[side] is not None
                    else ""
                    for side in ("before", "after")
                )
                path, why = _cell(change["path"]), _why(change)
                yield f"| `{change['op']}` | `{path}` | {before} | {after} | {why} |"
            yield ""
        yield from (f"- {_escaped(line)}" for line in _story(one))
        yield ""
        yield "</details>"
        yield ""


def _why(change: Mapping[str, Any]) -> str:
    return "recorded only" if change["recorded_only"] else _CAUSE[change["cause"]]


def _worth(one: Mapping[str, Any]) -> bool:
    version = one["version"]
    waits = version is not None and version["state"] not in ("same", "rollout", "unmade")
    return one["action"] in ("create", "update", "delete") or bool(one["warnings"]) or waits


def _story(one: Mapping[str, Any]) -> Iterator[str]:
    """Everything about an object but its fields."""
    version = one["version"]
    if version is not None and version["state"] != "same":
        now = version["before"] or "none"
        after = version["after"] or ("new" if version["state"] == "unmade" else "?")
        yield f"version: {now} → {after} (source says {version['reference']})"
        if version["sentence"]:
            yield f"{version['state']}: {version['sentence']}"
    for step in one["steps"]:
        yield f"step: {step}"
    if one["affected"]:
        more = len(one["affected"]) - 8
        names = ", ".join(one["affected"][:8]) + (f" and {more} more" if more > 0 else "")
        yield f"affects: {names}"
    yield from _proofs(one["samples"])
    for warning in one["warnings"]:
        yield f"warning: {warning}"
    for note in one["notes"]:
        yield f"note: {note}"


def _proofs(samples: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What each step's proofs take, a line a step."""
    for step in sorted({one["step"] for one in samples}):
        parts = []
        own = [one for one in samples if one["step"] == step]
        for one in own:
            if one["requests"] is None:
                parts.append(f"{one['metric']} never")
                continue
            takes = f" ({_duration(one['seconds'])})" if one["seconds"] is not None else ""
            parts.append(f"{one['metric']} {one['requests']:,.0f} requests{takes}")
        yield f"proofs at {100 * own[0]['weight']:g} %: {', '.join(parts)}"


def _duration(seconds: float) -> str:
    for unit, length in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= length:
            return f"{seconds / length:.2g} {unit}"
    return f"{seconds:.2g} s"


def summary(plan: Mapping[str, Any]) -> str:
    actions = [one["action"] for one in plan["objects"]]
    if not any(one in ("create", "update", "delete") for one in actions):
        record = actions.count("record")
        more = f" {record} are recorded as they are." if record else ""
        return f"No changes: {len(actions)} documents are as the files say.{more}"
    rollouts = [
        one
        for one in plan["objects"]
        if one["version"] and one["version"]["state"] in ("rollout", "unmade")
    ]
    parts = [
        f"{actions.count('create')} to create, {actions.count('update')} to update, "
        f"{actions.count('delete')} to remove, "
        f"{actions.count('none') + actions.count('record')} as they are."
    ]
    if rollouts:
        memory = f", {plan['memory'] / 2**20:,.0f} Mi of declared memory" if plan["memory"] else ""
        parts.append(
            f"{len(rollouts)} rollouts: {plan['replicas']:+d} workers while they run{memory}; "
            f"{plan['unpriced']}."
        )
    return "Plan: " + " ".join(parts)


def _values(kind: str, change: Mapping[str, Any]) -> str:
    before, after = (_value(kind, change["path"], change[side]) for side in ("before", "after"))
    if change["op"] == "~":
        return f"{before} → {after}"
    return after if change["op"] == "+" else before


def _value(kind: str, path: str, value: Any) -> str:
    """One value as it would be written in a file."""
    shown = _written(kind, path, value)
    line = shown if isinstance(shown, str) else json.dumps(shown, ensure_ascii=False)
    line = " ".join(line.split())
    return line if len(line) <= _WIDTH else f"{line[:_WIDTH]}…"


def _written(kind: str, path: str, value: Any) -> Any:
    if kind != "Model":
        return value
    parts = re.findall(r"\[\d+\]|\[.+?\](?=$|[.\[])|[^.\[]+", path)
    document = value
    for part in reversed(parts):
        document = [document] if _POSITION.fullmatch(part) else {part: document}
    found = pretty(KINDS[kind], document)
    for part in parts:
        found = found[0] if _POSITION.fullmatch(part) else found[part]
    return found


def _cell(line: str) -> str:
    return line.replace("|", "\\|").replace("`", "'")


def _escaped(line: str) -> str:
    return line.replace("<", "&lt;").replace(">", "&gt;")


def outcomes(results: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What became of each object that is worth a line, and how many there were of each kind."""
    counts: dict[str, int] = {}
    for one in results:
        counts[one["outcome"]] = counts.get(one["outcome"], 0) + 1
        if one["outcome"] in ("conflict", "refused", "waiting") or one["message"]:
            hint = f" {one['hint']}" if one["hint"] else ""
            yield f"{one['outcome']}: {one['kind']} {one['name']}: {one['message']}{hint}"
    for one in results:
        if one["rollout"]:
            yield f"rolls out {one['name']} {one['version']}: {one['rollout']}"
    yield ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items())) + "."
