"""What training programs may do: a service principal for each team, a data scientist of it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from modelfleet.core.authorization import SYSTEM, Grant, Principal, Role
from modelfleet.core.errors import Conflict
from modelfleet.delivery.training.work import Access
from modelfleet.identity import IdentityService


class TrainingAccess:
    """Gives each run a key that ends soon after it."""

    def __init__(self, identity: IdentityService, url: Callable[[], str]) -> None:
        self._identity = identity
        self._url = url

    def principal(self, team: str) -> Principal:
        """Who the programs of a team are: also with what an admin granted them besides."""
        name = f"training-{team}"[:200]
        with suppress(Conflict):  # there is one from an earlier run
            self._identity.create_principal(SYSTEM, name, "service")
        found = self._identity.add_grant(SYSTEM, name, Grant(Role.DATA_SCIENTIST, team))
        return Principal(found.id, found.name, found.grants)

    def __call__(self, team: str, seconds: float) -> Access:
        name = self.principal(team).name
        text, _ = self._identity.create_key(
            SYSTEM, name, name="training", seconds=max(60, int(seconds))
        )
        return Access(self._url(), text)
