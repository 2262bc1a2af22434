"""From what somebody asks to gates with the digest of all that their verdicts depend on."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import sqlalchemy as sa

from modelfleet.core.authorization import Principal
from modelfleet.core.clock import now_us
from modelfleet.core.errors import InvalidInput
from modelfleet.core.ids import digest
from modelfleet.fleetfile.gate_lists import Named, digest_of, parse_all
from modelfleet.fleetfile.gates import UNTOLD, Gate
from modelfleet.gates import kinds, store
from modelfleet.gates.platform import Rooms, consumers_of
from modelfleet.gates.store import Verdict, Wanted
from modelfleet.registry import Version, datasets

_MOST = 50
"""gates of a request"""
_HOUR_US = 3600 * 1_000_000


def named_of(gates: Sequence[object]) -> tuple[Named, ...]:
    """The gates of a list, or what is checked if it is empty. Raises `InvalidInput`."""
    if len(gates) > _MOST:
        raise InvalidInput(f"At most {_MOST} gates are asked for at a time.")
    try:
        return parse_all(list(gates) or list(UNTOLD))
    except ValueError as error:
        raise InvalidInput(str(error), hint="docs/gates.md explains every gate.") from error


def check_reader(connection: sa.Connection, actor: Principal, gates: Sequence[Named]) -> None:
    """A gate's program reads its data: whoever asks must be allowed to. Raises `NotAllowed`."""
    for one in gates:
        reference = getattr(one.spec, "dataset", None)
        if isinstance(reference, str) and digest_of(reference) is None:
            datasets.read_in(connection, actor, reference)


def wanted_of(
    rooms: Rooms,
    connection: sa.Connection,
    version: Version,
    champion: Version | None,
    named: Named,
    request: str,
    again: bool,
) -> Wanted:
    kind = kinds.find(named.kind)
    settled = _settled(connection, named.spec)
    entry: dict[str, object] = {named.kind: settled.model_dump(mode="json", exclude_defaults=True)}
    told = settled.model_dump(mode="json", exclude={"name", "blocking", "timeout"})
    inputs: dict[str, object] = {
        "kind": named.kind,
        "check": kind.version,
        "told": told,
        "candidate": _identity(rooms, version),
        "data": _data_digest(connection, settled),
    }
    if "champion" in kind.uses:
        inputs["champion"] = _identity(rooms, champion) if champion else None
    if "consumers" in kind.uses:
        known = consumers_of(rooms, version.model, version.info.signature)
        inputs["consumers"] = sorted(f"{one.kind} {one.name}" for one in known)
    if kind.uses & {"recorded", "moment"}:
        inputs["hour"] = now_us() // _HOUR_US
        inputs["champion"] = _identity(rooms, champion) if champion else None
    base = digest(msgspec.json.encode(inputs, order="sorted"))
    known_run = store.find(connection, version.id, named.name, base)
    undecided = known_run is not None and known_run.verdict is Verdict.INCONCLUSIVE
    anew = again or undecided or named.kind == "approval"
    return Wanted(
        named.name,
        named.kind,
        entry,
        digest(f"{base}{request}".encode()) if anew else base,
        reused=known_run is not None and not anew,
        blocking=settled.blocking,
    )


def _identity(rooms: Rooms, version: Version) -> list[object]:
    variant = rooms.registry.serving_variant(version)
    return [variant.bundle_digest, version.environment_digest, variant.environment_digest]


def _settled(connection: sa.Connection, spec: Gate) -> Gate:
    """With `@latest` as the version that it is now. Raises `NotFound`."""
    reference = getattr(spec, "dataset", None)
    if not isinstance(reference, str) or digest_of(reference) is not None:
        return spec
    found = datasets.find_in(connection, reference)
    return spec.model_copy(update={"dataset": found.reference})


def _data_digest(connection: sa.Connection, spec: Gate) -> str | None:
    reference = getattr(spec, "dataset", None)
    if not isinstance(reference, str):
        return None
    return digest_of(reference) or datasets.find_in(connection, reference).sha256
