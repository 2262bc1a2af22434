"""What a rollout must pass first: its gates, asked for once for each of its versions.

`rollouts.advance.Gatekeeper` over the gates room. Which request of gates belongs to which version
of a rollout is kept in a row, so that a restart asks for nothing again.
"""

from __future__ import annotations

import sqlalchemy as sa

from modelfleet.core.authorization import SYSTEM, Principal
from modelfleet.core.database import metadata
from modelfleet.core.errors import FleetError
from modelfleet.core.ids import digest
from modelfleet.gates.people import evidence_digest
from modelfleet.gates.requests import verdict_of
from modelfleet.gates.service import GateService
from modelfleet.gates.store import GateRun, Verdict
from modelfleet.registry import RegistryService, Version
from modelfleet.rollouts.advance import Admission
from modelfleet.rollouts.store import Row

rollout_gates = sa.Table(
    "rollout_gates",
    metadata,
    sa.Column("rollout_id", sa.String(32), primary_key=True),
    sa.Column("version_id", sa.String(32), primary_key=True),
    sa.Column("request_id", sa.String(32), nullable=False),
)
_WORDS = {"fail": "failed", "running": "waiting", "inconclusive": "inconclusive"}
_ORDER = ("failed", "waiting", "inconclusive", "passed")


class GateKeeper:
    def __init__(self, registry: RegistryService, gates: GateService) -> None:
        self._registry = registry
        self._gates = gates

    def look(self, connection: sa.Connection, rollout: Row) -> Admission:
        """How the gates of all its versions stand; those that were not asked for are, now."""
        if not rollout.spec.gates:
            return Admission("passed")
        versions = self._registry.versions_by_id(list(rollout.version_ids))
        if any(arm.version_id not in versions for arm in rollout.arms):
            return Admission("failed", "A version of this rollout was deleted.")
        against = versions.get(rollout.from_version_id or "")
        found = [
            self._one(connection, rollout, versions[arm.version_id], against)
            for arm in rollout.arms
        ]
        worst = min(found, key=lambda one: _ORDER.index(one.state))
        evidence = digest("\n".join(one.evidence_digest for one in found).encode())
        return Admission(worst.state, worst.sentence, evidence)

    def _one(
        self, connection: sa.Connection, rollout: Row, version: Version, against: Version | None
    ) -> Admission:
        try:
            with connection.begin_nested():  # a refusal leaves nothing half asked for
                request = self._request(connection, rollout, version, against)
            runs = self._gates.standing(connection, request)
        except FleetError as error:  # a data set that is gone, a gate that nobody knows any more
            return Admission("failed", f"{error.message} {error.hint}".strip())
        verdict = verdict_of([(blocking, run) for blocking, run in runs.values()])
        known = [run for _, run in runs.values() if run is not None]
        evidence = digest("\n".join(evidence_digest(run) for run in known).encode())
        sentence = _sentence(version, verdict, runs)
        return Admission(_WORDS.get(verdict, "passed"), sentence, evidence)  # type: ignore[arg-type]

    def _request(
        self, connection: sa.Connection, rollout: Row, version: Version, against: Version | None
    ) -> str:
        ours = sa.and_(
            rollout_gates.c.rollout_id == rollout.id, rollout_gates.c.version_id == version.id
        )
        known = connection.execute(sa.select(rollout_gates.c.request_id).where(ours)).scalar()
        if known is not None:
            return str(known)
        asker = Principal(SYSTEM.id, rollout.actor or SYSTEM.name, SYSTEM.grants)
        made = self._gates.request_in(
            connection,
            asker,
            version.model,
            version.version,
            rollout.spec.gates,
            against.version if against else "none",
        )
        connection.execute(
            sa.insert(rollout_gates).values(
                rollout_id=rollout.id, version_id=version.id, request_id=made
            )
        )
        return made


def _sentence(version: Version, verdict: str, runs: dict[str, tuple[bool, GateRun | None]]) -> str:
    """Which gates it hangs on, and why."""
    if verdict == "running":
        open_ones = [gate for gate, (_, run) in runs.items() if run is None]
        return f"{version.name} waits for its gates: {', '.join(open_ones)}."
    wanted = {"fail": Verdict.FAIL, "inconclusive": Verdict.INCONCLUSIVE}.get(verdict)
    blocking = [run for blocks, run in runs.values() if blocks and run is not None]
    told = [f"{run.gate}: {run.sentence}" for run in blocking if run.verdict is wanted]
    return " ".join(told) if told else f"{version.name} passed its gates."
