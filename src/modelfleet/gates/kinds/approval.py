"""People say yes. No check runs: what they decided is read when it is asked for."""

from __future__ import annotations

from modelfleet.fleetfile.gates import Approval
from modelfleet.gates.kinds.base import Case, Kind, inconclusive
from modelfleet.gates.store import GateRun


def check(spec: Approval, case: Case) -> GateRun:
    return inconclusive("approval", "People approve on the platform, not here.")


KIND = Kind("approval", Approval, check, title="Approval")
