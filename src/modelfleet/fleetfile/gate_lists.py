"""Lists of gates: names given, contradictions refused, and the files that they name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from modelfleet.fleetfile.gates import KINDS, Gate, Run, parse

_DIGEST = re.compile(r"(.+)@sha256:([0-9a-f]{64})")
_REGISTERED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*@(latest|[0-9]+)")


@dataclass(frozen=True)
class Named:
    """A gate of a list, with the name that its runs are kept under."""

    name: str
    kind: str
    spec: Gate

    @property
    def entry(self) -> dict[str, object]:
        """As it would be written, without what is a default."""
        return {self.kind: self.spec.model_dump(mode="json", exclude_defaults=True)}


def parse_all(entries: Sequence[object]) -> tuple[Named, ...]:
    """A whole list: names given, contradictions refused.

    Raises `ValueError` that tells everything that is wrong, one complaint a line.
    """
    found: list[Named] = []
    wrong: list[str] = []
    for place, entry in enumerate(entries, 1):
        try:
            kind, spec = parse(entry)
        except ValidationError as error:
            kind = str(next(iter(entry)) if isinstance(entry, Mapping) else entry)
            wrong += [f"gate {place} ({kind}): {_said(one)}" for one in error.errors()]
            continue
        except ValueError as error:
            wrong.append(f"gate {place}: {error}")
            continue
        for other in found:
            if complaint := _contradiction(other, kind, spec):
                wrong.append(f"gate {place} ({kind}): {complaint}")
        name = spec.name or _unused(_called(kind, spec), {one.name for one in found})
        if any(one.name == name for one in found):
            wrong.append(f"gate {place} ({kind}): there is a gate {name!r} already")
        found.append(Named(name, kind, spec))
    if wrong:
        raise ValueError("\n".join(wrong))
    return tuple(found)


def _said(error: Mapping[str, object] | object) -> str:
    known = dict(error) if isinstance(error, Mapping) else {}
    where = ".".join(str(part) for part in known.get("loc", ()))
    text = str(known.get("msg", "")).removeprefix("Value error, ")
    return f"{where}: {text}" if where else text


def _called(kind: str, spec: Gate) -> str:
    if isinstance(spec, Run):
        file = file_of(spec.uses).rpartition("/")[2]
        return re.sub(r"[^A-Za-z0-9._-]", "-", file.partition(".")[0])[:40] or kind
    return kind


def _unused(name: str, taken: set[str]) -> str:
    number = 2
    found = name
    while found in taken:
        found, number = f"{name}-{number}", number + 1
    return found


_QUESTION: dict[str, tuple[str, ...]] = {
    "quality": ("dataset", "target", "metric", "output", "positive"),
    "fairness": ("dataset", "target", "metric", "sensitive", "output", "positive"),
    "run": ("uses", "args", "dataset", "serve", "environment"),
    "signature": ("compatible_with",),
    "drift": ("features", "recent"),
    "latency": ("rows",),
    "approval": ("role",),
    "llm_safety": ("dataset",),
}
"""what makes two gates of a kind ask the same; of others there is one"""


def same_question(kind: str, one: Gate, other: Gate) -> bool:
    """Whether two gates of a kind ask the same, whatever their limits."""
    return all(getattr(one, name) == getattr(other, name) for name in _QUESTION.get(kind, ()))


def _contradiction(other: Named, kind: str, spec: Gate) -> str:
    """Why both can't stand in one list; empty if they can."""
    if other.kind != kind or kind not in KINDS:
        return ""
    if not same_question(kind, spec, other.spec):
        return ""
    mine, known = spec.model_dump(), other.spec.model_dump()
    ignored = ("name", "blocking", "timeout")
    differ = sorted(n for n in mine if mine[n] != known[n] and n not in ignored)
    if not differ:
        return f"it is the same as {other.name!r}"
    what = ", ".join(f"{n} {known[n]} and {mine[n]}" for n in differ)
    return f"it asks the same as {other.name!r} with other limits ({what})"


def file_of(reference: str) -> str:
    """The name of what is referred to, without its digest."""
    found = _DIGEST.fullmatch(reference)
    return found[1] if found else reference


def digest_of(reference: str) -> str | None:
    """sha256 of an uploaded file (`NAME@sha256:DIGEST`), None of anything else."""
    found = _DIGEST.fullmatch(reference)
    return found[2] if found else None


def is_registered(reference: str) -> bool:
    """Whether it names a version of a data set, `NAME@3` or `NAME@latest`, and no file."""
    return _REGISTERED.fullmatch(reference) is not None


def local_files(spec: Gate) -> dict[str, str]:
    """Fields that name files beside the document, and the files."""
    found: dict[str, str] = {}
    for field in ("dataset", "uses"):
        value = getattr(spec, field, None)
        if not isinstance(value, str) or digest_of(value) is not None:
            continue
        if field == "uses" or not is_registered(value):
            found[field] = value
    return found


def digests_of(entry: object) -> set[str]:
    """The uploaded files that an entry names, however it was written."""
    told = next(iter(entry.values()), None) if isinstance(entry, Mapping) and entry else None
    values = told.values() if isinstance(told, Mapping) else ()
    return {found for one in values if isinstance(one, str) and (found := digest_of(one))}
