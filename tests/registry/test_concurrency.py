"""A hundred writers: nothing is lost, nothing comes twice. On PostgreSQL from two processes' worth
of connections, on SQLite from one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from modelfleet.core import audit
from modelfleet.core.errors import Conflict
from modelfleet.core.settings import Settings
from modelfleet.wiring import Fleet, build
from people import ADMIN
from registrar import Registrar

WRITERS = 100


def test_versions_are_distinct_and_tags_are_kept(
    fleet: Fleet, registrar: Registrar, fleet_settings: Settings
) -> None:
    fleets = [fleet]
    if fleet.database.is_postgres:
        fleets.append(build(fleet_settings))
    registrar.model("churn")
    news = [registrar.new() for _ in range(60)]

    def write(number: int) -> str:
        registry = fleets[number % len(fleets)].registry
        if number < 60:
            return registry.register(ADMIN, "churn", news[number]).version
        try:
            registry.create_model(ADMIN, f"m{(number - 60) // 2}", owner_team="growth")
        except Conflict:
            return "told"
        return "made"

    with ThreadPoolExecutor(WRITERS) as threads:
        said = list(threads.map(write, range(WRITERS)))
    versions = fleet.registry.list_versions(ADMIN, "churn")
    assert sorted(one.sequence for one in versions) == list(range(1, 61))
    assert {one.version for one in versions} == set(said[:60])
    assert (said.count("made"), said.count("told")) == (20, 20)
    assert len({one.index for one in versions}) == 60
    assert audit.first_broken(fleet.database) is None
    for one in fleets[1:]:
        one.converters.close()
        one.database.close()


def test_the_newest_version_is_the_newest_in_the_end(fleet: Fleet, registrar: Registrar) -> None:
    registrar.model("churn")
    news = [registrar.new() for _ in range(20)]
    with ThreadPoolExecutor(20) as threads:
        list(threads.map(lambda new: fleet.registry.register(ADMIN, "churn", new), news))
    newest = max(fleet.registry.list_versions(ADMIN, "churn"), key=lambda one: one.sequence)
    assert fleet.registry.get_model(ADMIN, "churn").latest_version == newest.version
