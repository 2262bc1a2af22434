"""Gates that people decide: asked once the checks ended, bound to what they see."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import sqlalchemy as sa

from modelfleet.core.authorization import SYSTEM
from modelfleet.core.ids import digest
from modelfleet.fleetfile.gates import Approval, parse
from modelfleet.gates.store import GateRun, Request, Verdict, Wanted
from modelfleet.identity import Approvals
from modelfleet.registry import Version


def ask(
    approvals: Approvals | None,
    connection: sa.Connection,
    version: Version,
    request: Request,
    checks: Mapping[str, GateRun | None],
) -> None:
    """Once all checks ended and none that blocks failed: people see what they approve."""
    blocking = {one.gate for one in request.gates if one.blocking}
    failed = any(
        run.verdict is Verdict.FAIL for gate, run in checks.items() if run and gate in blocking
    )
    if approvals is None or failed or None in checks.values():
        return
    for one in request.gates:
        if one.kind == "approval":
            _, spec = parse(one.entry)
            assert isinstance(spec, Approval)
            approvals.ask(
                connection,
                SYSTEM,
                subject_of(request, one),
                approval_digests(version, request, checks),
                role=spec.role,
                quorum=spec.quorum,
                team=version.owner_team,
                sentence=f"{version.name} with the evidence of its gates.",
                not_by=[request.requested_by, version.created_by],
                expires_seconds=spec.expires,
            )


def standing(
    approvals: Approvals | None,
    connection: sa.Connection,
    version: Version,
    request: Request,
    wanted: Wanted,
    checks: Mapping[str, GateRun | None],
) -> GateRun | None:
    """The verdict of an approval; None while it waits."""
    _, spec = parse(wanted.entry)
    assert isinstance(spec, Approval)
    if approvals is None:
        sentence = "Nobody can approve here."
        return GateRun(wanted.gate, Verdict.INCONCLUSIVE, sentence, {}, kind="approval")
    digests = approval_digests(version, request, checks)
    standing, sentence = approvals.standing(
        connection,
        subject_of(request, wanted),
        digests,
        spec.role,
        spec.quorum,
        [request.requested_by, version.created_by],
    )
    verdict = {
        "approved": Verdict.PASS,
        "rejected": Verdict.FAIL,
        "expired": Verdict.INCONCLUSIVE,
    }.get(standing)
    if verdict is None:
        return None
    evidence = {"facts": {"role": spec.role, "quorum": spec.quorum}, "digests": dict(digests)}
    return GateRun(wanted.gate, verdict, sentence, evidence, kind="approval")


def subject_of(request: Request, wanted: Wanted) -> str:
    """What an approval is about."""
    return f"gate/{request.id}/{wanted.gate}"


def evidence_digest(run: GateRun) -> str:
    told = [run.gate, run.verdict.value, run.sentence, dict(run.evidence), run.input_digest]
    return digest(msgspec.json.encode(told, order="sorted"))


def approval_digests(
    version: Version, request: Request, checks: Mapping[str, GateRun | None]
) -> dict[str, str]:
    """What an approval binds: the bundle, what was asked, and the evidence so far."""
    runs = [evidence_digest(run) for _, run in sorted(checks.items()) if run is not None]
    return {
        "bundle": version.bundle_digest,
        "spec": digest(msgspec.json.encode(request.gates, order="sorted")),
        "evidence": digest("\n".join(runs).encode()),
    }
