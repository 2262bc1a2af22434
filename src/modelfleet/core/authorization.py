"""Who may do what: one function, one table (docs/architecture.md, "Who may").

A principal holds grants, each a role within a scope: a team's name, or `*` for all teams. Grants
only add; what no grant allows is denied.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from modelfleet.core.errors import NotAllowed


class Action(StrEnum):
    READ = "read"
    READ_PAYLOADS = "read-payloads"
    REGISTER = "register"
    """Create models, versions, runs, uploads and aliases."""
    ROLLOUT = "rollout"
    """Start, pause and resume rollouts; deploy."""
    ROLL_BACK = "roll-back"
    """Abort a rollout or return to the version before."""
    RUN_BATCH = "run-batch"
    """Run a version beside serving: score tables, measure it."""
    DELETE = "delete"
    REPORT_OUTCOMES = "report-outcomes"
    FREEZE = "freeze"
    """Define times in which no rollout advances."""
    ACKNOWLEDGE = "acknowledge"
    """Take note of alerts."""
    MANAGE_ACCESS = "manage-access"
    READ_AUDIT = "read-audit"


class Role(StrEnum):
    VIEWER = "viewer"
    DATA_SCIENTIST = "data-scientist"
    DEPLOYER = "deployer"
    APPROVER = "approver"
    RELEASE_MANAGER = "release-manager"
    ADMIN = "admin"


_A = Action
ROLE_ACTIONS: dict[Role, frozenset[Action]] = {
    Role.VIEWER: frozenset({_A.READ}),
    Role.DATA_SCIENTIST: frozenset(
        {
            _A.READ,
            _A.READ_PAYLOADS,
            _A.REGISTER,
            _A.RUN_BATCH,
            _A.REPORT_OUTCOMES,
            _A.ACKNOWLEDGE,
        }
    ),
    Role.DEPLOYER: frozenset(
        {
            _A.READ,
            _A.REGISTER,
            _A.ROLLOUT,
            _A.ROLL_BACK,
            _A.RUN_BATCH,
            _A.REPORT_OUTCOMES,
            _A.ACKNOWLEDGE,
        }
    ),
    Role.APPROVER: frozenset(
        {_A.READ, _A.ROLL_BACK, _A.FREEZE, _A.DELETE, _A.ACKNOWLEDGE, _A.READ_AUDIT}
    ),
    Role.RELEASE_MANAGER: frozenset(
        {_A.READ, _A.ROLLOUT, _A.ROLL_BACK, _A.FREEZE, _A.ACKNOWLEDGE, _A.READ_AUDIT}
    ),
    Role.ADMIN: frozenset(Action),
}


@dataclass(frozen=True)
class Grant:
    role: Role
    team: str = "*"


@dataclass(frozen=True)
class Principal:
    """Who is calling: a person, a program, or modelfleet itself."""

    id: str
    name: str
    grants: tuple[Grant, ...] = ()
    correlation_id: str = ""

    def may(self, action: Action, team: str) -> bool:
        return any(
            action in ROLE_ACTIONS[grant.role] and grant.team in ("*", team)
            for grant in self.grants
        )

    def teams(self, action: Action) -> frozenset[str] | None:
        """The teams for which this principal may do `action`; None is all of them."""
        found = {grant.team for grant in self.grants if action in ROLE_ACTIONS[grant.role]}
        return None if "*" in found else frozenset(found)


@dataclass(frozen=True)
class Resource:
    """What is acted upon; `team` decides which grants count, `*` asks for a grant on all teams."""

    kind: str
    name: str
    team: str = "*"

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}"


@dataclass(frozen=True)
class Decision:
    allow: bool
    reason: str


SYSTEM = Principal("system", "modelfleet", (Grant(Role.ADMIN),))
"""The platform's own hand: reconcilers, the judge, monitors."""


def decide(principal: Principal, action: Action, resource: Resource) -> Decision:
    for grant in principal.grants:
        if action in ROLE_ACTIONS[grant.role] and grant.team in ("*", resource.team):
            return Decision(True, f"{grant.role} of {grant.team}")
    scope = "all teams" if resource.team == "*" else f"team {resource.team}"
    return Decision(False, f"no grant for {action} on {resource.kind} of {scope}")


def authorize_somewhere(principal: Principal, action: Action, resource: Resource) -> None:
    """For what belongs to no team: return if `principal` may do `action` for any team."""
    teams = principal.teams(action)
    team = "*" if not teams else min(teams)
    authorize(principal, action, replace(resource, team=team))


def authorize(principal: Principal, action: Action, resource: Resource) -> None:
    """Return if `principal` may do `action` on `resource`, else raise `NotAllowed`."""
    decision = decide(principal, action, resource)
    if not decision.allow:
        raise NotAllowed(
            f"{principal.name} may not {action} {resource}: {decision.reason}.",
            hint="An admin can grant a role: modelfleet grants add PRINCIPAL ROLE --team TEAM.",
        )
