"""Named checks of a version, each with a verdict and its evidence.

Verbs: `PrepareService.prepare` resolves, compiles and checks a new version until it is ready or
failed; `GateService.request` has it checked by the gates that a team wants (`kinds`), in jobs;
`list_runs` and `newest` show what was found. What can't be proven is `inconclusive`, never `pass`.
"""

from modelfleet.gates.prepare import PrepareService
from modelfleet.gates.store import GateRun, Verdict, list_runs, newest

__all__ = ["GateRun", "PrepareService", "Verdict", "list_runs", "newest"]
