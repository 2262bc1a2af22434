"""Two versions of a model, and in what they differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from modelfleet.core.authorization import Principal
from modelfleet.core.errors import FleetError
from modelfleet.registry import Version
from modelfleet.registry.code import files_of
from modelfleet.registry.signature import Tensor
from modelfleet.serving.environments import pins
from modelfleet.wiring import Fleet


@dataclass(frozen=True)
class Difference:
    name: str
    before: str
    """empty: not there"""
    after: str

    @property
    def same(self) -> bool:
        return self.before == self.after


@dataclass(frozen=True)
class Section:
    name: str
    rows: tuple[Difference, ...]

    @property
    def changed(self) -> int:
        return sum(not row.same for row in self.rows)


@dataclass(frozen=True)
class VersionDiff:
    model: str
    before: Version
    after: Version
    sections: tuple[Section, ...]


def version_diff(
    fleet: Fleet, principal: Principal, name: str, before: str, after: str
) -> VersionDiff:
    """Metrics, parameters, signature, dependencies, files and code of both."""
    one = fleet.registry.get_version(principal, name, before)
    two = fleet.registry.get_version(principal, name, after)
    sides = [_sides(fleet, principal, version) for version in (one, two)]
    sections = tuple(Section(title, _rows(sides[0][title], sides[1][title])) for title in sides[0])
    return VersionDiff(one.model, one, two, sections)


def _rows(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[Difference, ...]:
    """What differs comes first."""
    rows = [
        Difference(key, before.get(key, ""), after.get(key, ""))
        for key in sorted({*before, *after})
    ]
    return tuple(sorted(rows, key=lambda row: row.same))


def _sides(fleet: Fleet, principal: Principal, version: Version) -> dict[str, dict[str, str]]:
    run = None
    if version.run_id:
        try:
            run = fleet.registry.get_run(principal, version.run_id)
        except FleetError:
            run = None  # it was logged elsewhere
    metrics = {**(run.metrics if run else {}), **version.metrics}
    code = {"git commit": run.git_commit} if run and run.git_commit else {}
    code |= {key: str(value) for key, value in (version.code or {}).items() if key != "files"}
    code |= {entry.path: entry.sha256[:12] for entry in files_of(version.code or {})}
    files = {
        entry.path: entry.sha256[:12] for entry in fleet.registry.entries(version.bundle_digest)
    }
    return {
        "Metrics": {key: f"{value:.6g}" for key, value in metrics.items()},
        "Parameters": dict(run.parameters) if run else {},
        "Inputs": {tensor.name: _tensor(tensor) for tensor in version.info.signature.inputs},
        "Outputs": {tensor.name: _tensor(tensor) for tensor in version.info.signature.outputs},
        "Dependencies": _dependencies(fleet, version),
        "Code": code,
        "Files": files,
        "Tags": dict(version.tags),
    }


def _tensor(tensor: Tensor) -> str:
    return f"{tensor.datatype} [{', '.join(map(str, tensor.shape))}]"


def _dependencies(fleet: Fleet, version: Version) -> dict[str, str]:
    """The lock if there is one, else what was asked for."""
    if version.environment_digest is not None:
        environment = fleet.registry.get_environment(version.environment_digest)
        found = dict(pin.split("==", 1) for pin in pins(environment.lock) if "==" in pin)
        return {"python": environment.python} | {k: v.split(" ")[0] for k, v in found.items()}
    wanted = version.requested_environment.get("requirements", [])
    return {str(one): "asked for" for one in wanted} if isinstance(wanted, list) else {}
