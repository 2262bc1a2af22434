"""Versions that bring their workers down too often are not run any more."""

from __future__ import annotations

import pytest

from modelfleet.core import audit
from modelfleet.core.authorization import Role
from modelfleet.core.clock import now_us
from modelfleet.core.errors import NotAllowed, NotFound
from modelfleet.serving.quarantine import WINDOW_US, QuarantineService
from modelfleet.wiring import Fleet
from people import ADMIN, NOBODY, principal
from registrar import Registrar


class Crashes:
    """What the evidence says."""

    def __init__(self) -> None:
        self.times: dict[int, list[int]] = {}

    def happen(self, index: int, count: int = 1) -> None:
        self.times.setdefault(index, []).extend([now_us()] * count)

    def since(self, moment: int) -> dict[int, list[int]]:
        kept = {index: [t for t in times if t > moment] for index, times in self.times.items()}
        return {index: times for index, times in kept.items() if times}


@pytest.fixture
def crashes() -> Crashes:
    return Crashes()


@pytest.fixture
def service(fleet: Fleet, registrar: Registrar, crashes: Crashes) -> QuarantineService:
    registrar.model()
    return QuarantineService(fleet.database, fleet.registry, crashes.since, 3)


def test_the_third_crash_counts(
    fleet: Fleet, registrar: Registrar, service: QuarantineService, crashes: Crashes
) -> None:
    bad, good = registrar.ready(), registrar.ready()
    crashes.happen(bad.index, 2)
    crashes.happen(good.index)
    service.look()
    assert service.current() == {}
    crashes.happen(bad.index)
    service.look()
    service.look()
    assert set(service.current()) == {bad.index}
    (listed,) = service.list(ADMIN)
    assert (listed.model, listed.version) == (bad.model, bad.version)
    assert "3 times within an hour" in listed.reason
    assert service.list(NOBODY) == []
    actions = [event.action for event in audit.events(fleet.database)]
    assert actions.count("quarantine-version") == 1


def test_old_crashes_do_not_count(
    registrar: Registrar, service: QuarantineService, crashes: Crashes
) -> None:
    bad = registrar.ready()
    crashes.times[bad.index] = [now_us() - WINDOW_US - 1] * 5 + [now_us()]
    service.look()
    assert service.current() == {}


def test_a_release_forgives_and_is_for_those_who_may(
    registrar: Registrar, service: QuarantineService, crashes: Crashes
) -> None:
    bad = registrar.ready()
    crashes.happen(bad.index, 3)
    service.look()
    with pytest.raises(NotAllowed):
        service.release(principal(Role.VIEWER), bad.model, bad.version)
    service.release(principal(Role.DEPLOYER), bad.model, bad.version)
    service.look()
    assert service.current() == {}
    with pytest.raises(NotFound, match="not in quarantine"):
        service.release(ADMIN, bad.model, bad.version)
    crashes.happen(bad.index, 2)
    service.look()
    assert service.current() == {}
    crashes.happen(bad.index)
    service.look()
    assert set(service.current()) == {bad.index}


def test_nothing_is_stopped_if_nobody_wants_it(
    fleet: Fleet, registrar: Registrar, service: QuarantineService, crashes: Crashes
) -> None:
    bad = registrar.ready()
    crashes.happen(bad.index, 30)
    QuarantineService(fleet.database, fleet.registry, crashes.since, 0).look()
    assert service.current() == {}
