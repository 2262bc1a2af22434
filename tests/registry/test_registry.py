"""Models and versions: what is written, what is refused, who sees what."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from modelfleet.core import audit
from modelfleet.core.authorization import SYSTEM, Grant, Principal, Role
from modelfleet.core.errors import Conflict, InvalidInput, NotAllowed, NotFound, Referenced
from modelfleet.core.jobs import LocalJobRunner
from modelfleet.lineage import Node
from modelfleet.registry import Entry, NewVersion, tables
from modelfleet.registry import store as registry_store
from modelfleet.registry.service import PREPARE
from modelfleet.registry.tracking import store as tracking_store
from modelfleet.registry.tracking.tables import run
from modelfleet.wiring import Fleet
from people import ADMIN, NOBODY, principal
from registrar import Registrar


@pytest.fixture
def churn(registrar: Registrar) -> Registrar:
    registrar.model()
    return registrar


def rows(fleet: Fleet, table: sa.Table) -> int:
    with fleet.database.read() as connection:
        return int(connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one())


# Models ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["a", "late-JFK-B6", "team.model_1", "x" * 250, "é", "-a", "a b", "a%2fb", "\u0661"]
)
def test_names_that_are_fine(fleet: Fleet, name: str) -> None:
    assert fleet.registry.create_model(ADMIN, name, owner_team="t").name == name


@pytest.mark.parametrize(
    "name",
    ["", "a/b", "a:b", "a@b", " a", "a ", ".", "..", "x" * 251, "a\n", "a\u0000b", "a\u202eb"],
)
def test_names_that_are_not(fleet: Fleet, name: str) -> None:
    with pytest.raises(InvalidInput):
        fleet.registry.create_model(ADMIN, name, owner_team="t")


def test_a_model_needs_a_team_a_known_criticality_and_a_free_name(
    fleet: Fleet, churn: Registrar
) -> None:
    for wrong in ({"owner_team": ""}, {"owner_team": "*"}, {"owner_team": "t", "criticality": "?"}):
        with pytest.raises(InvalidInput):
            fleet.registry.create_model(ADMIN, "other", **wrong)
    with pytest.raises(Conflict):
        fleet.registry.create_model(ADMIN, "churn", owner_team="risk")
    assert len(fleet.registry.list_models(ADMIN)) == 1


def test_only_what_is_given_is_changed(fleet: Fleet, churn: Registrar) -> None:
    fleet.registry.update_model(ADMIN, "churn", criticality="high", tags={"a": "b"})
    found = fleet.registry.update_model(ADMIN, "churn", description="who leaves")
    assert (found.criticality, found.tags, found.description) == ("high", {"a": "b"}, "who leaves")
    with pytest.raises(InvalidInput):
        fleet.registry.update_model(ADMIN, "churn", criticality="?")
    with pytest.raises(NotFound):
        fleet.registry.update_model(ADMIN, "nothing", description="x")


def test_a_model_goes_only_when_nothing_hangs_on_it(fleet: Fleet, churn: Registrar) -> None:
    churn.version()
    with pytest.raises(Referenced):
        fleet.registry.delete_model(ADMIN, "churn")
    fleet.registry.delete_version(ADMIN, "churn", "1")
    fleet.endpoints.create(ADMIN, "churn", "churn")
    with pytest.raises(Referenced, match="churn"):
        fleet.registry.delete_model(ADMIN, "churn")
    fleet.endpoints.delete(ADMIN, "churn")
    fleet.registry.delete_model(ADMIN, "churn")
    with pytest.raises(NotFound):
        fleet.registry.get_model(ADMIN, "churn")


def test_a_model_that_feeds_another_stays(fleet: Fleet, churn: Registrar) -> None:
    churn.model("offer")
    churn.version("offer", uses=("churn",))
    with pytest.raises(Referenced, match=r"offer@1\.0\.0"):
        fleet.registry.delete_model(ADMIN, "churn")


# Registering -----------------------------------------------------------------------------------


def test_what_a_new_version_is(fleet: Fleet, churn: Registrar) -> None:
    made = churn.version(dataset="flights@2013")
    assert (made.version, made.sequence, made.status, made.serving) == ("1.0.0", 1, "pending", "")
    assert made.created_by == "ada"
    assert fleet.registry.get_model(ADMIN, "churn").latest_version == "1.0.0"
    task = fleet.jobs.status(f"{PREPARE}/{made.id}")
    assert task is not None
    assert task.status == "queued"
    assert audit.events(fleet.database)[0].action == "register-version"
    run = fleet.registry.get_run(ADMIN, made.run_id or "")
    assert run.dataset == "flights@2013"


def test_the_next_number_follows_from_what_changed(churn: Registrar) -> None:
    content = b"same"
    assert churn.version(content=content).version == "1.0.0"
    assert churn.version(content=content, python="3.12").version == "1.0.1"
    assert churn.version(content=b"retrained").version == "1.1.0"
    assert churn.version(content=b"wider", features=3).version == "2.0.0"
    assert churn.version(content=b"fixed", version="7.0.0-rc.1", features=3).version == "7.0.0-rc.1"
    assert churn.version(content=b"next", features=3).version == "7.1.0"


def test_a_number_is_given_once(fleet: Fleet, churn: Registrar) -> None:
    churn.version(version="1.2.0")
    for taken in ("1.2.0", "1.2.0+other"):
        with pytest.raises(Conflict):
            churn.version(version=taken)
    with pytest.raises(InvalidInput):
        churn.version(version="1.2")
    fleet.registry.delete_version(ADMIN, "churn", "1.2.0")
    again = churn.version(version="1.2.0")
    assert (again.sequence, again.index) == (2, 2)


def test_a_number_of_elsewhere_is_kept_and_leaves_a_gap(fleet: Fleet, churn: Registrar) -> None:
    def kept(sequence: int) -> int:
        new = replace(churn.new(), sequence=sequence)
        return fleet.registry.register(ADMIN, "churn", new).sequence

    assert [kept(3), churn.version().sequence, kept(9)] == [3, 4, 9]
    for given in (1, 2, 3, 9):
        with pytest.raises(Conflict, match="the next is 10"):
            kept(given)
    for wrong in (0, -1, 10**9 + 1, 2**70):
        with pytest.raises(InvalidInput):
            kept(wrong)
    fleet.registry.delete_version(ADMIN, "churn", "9")
    with pytest.raises(Conflict):
        kept(9)
    assert kept(10**9) == 10**9
    assert {one.sequence for one in fleet.registry.list_versions(ADMIN, "churn")} == {
        3,
        4,
        10**9,
    }


def test_many_at_once_get_numbers_of_their_own(fleet: Fleet, churn: Registrar) -> None:
    new = [churn.new() for _ in range(12)]
    made, failed = [], []

    def register(one: NewVersion) -> None:
        try:
            made.append(fleet.registry.register(ADMIN, "churn", one))
        except BaseException as error:  # noqa: BLE001 - shown below
            failed.append(error)

    threads = [threading.Thread(target=register, args=(one,)) for one in new]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert sorted(v.sequence for v in made) == list(range(1, 13))
    assert len({v.version for v in made}) == len({v.index for v in made}) == 12
    assert audit.first_broken(fleet.database) is None


@pytest.mark.parametrize("where", ["record", "enqueue", "edge"])
def test_nothing_half_written_stays(
    fleet: Fleet, churn: Registrar, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("power cut")

    new = churn.new(dataset="d")
    target: tuple[object, str] = {
        "record": (audit, "record"),
        "enqueue": (LocalJobRunner, "enqueue"),
        "edge": (tracking_store, "add_finished_run"),
    }[where]
    monkeypatch.setattr(*target, fail)
    with pytest.raises(RuntimeError):
        fleet.registry.register(ADMIN, "churn", new)
    monkeypatch.undo()
    for table in (tables.model_version, tables.bundle, run, tables.variant):
        assert rows(fleet, table) == 0
    assert fleet.registry.get_model(ADMIN, "churn").latest_version is None
    assert fleet.registry.list_versions(ADMIN, "churn") == []
    assert fleet.registry.register(ADMIN, "churn", new).sequence == 1


def test_what_was_not_uploaded_is_refused(fleet: Fleet, churn: Registrar) -> None:
    new = churn.new()
    entries = (*new.entries, Entry("extra", "0" * 64, 3))
    with pytest.raises(NotFound, match="extra"):
        fleet.registry.register(ADMIN, "churn", replace(new, entries=entries))
    wrong = tuple(Entry(e.path, e.sha256, e.size + 1) for e in new.entries)
    with pytest.raises(InvalidInput, match="bytes"):
        fleet.registry.register(ADMIN, "churn", replace(new, entries=wrong))
    no_info = tuple(e for e in new.entries if e.path != "bundle.json")
    with pytest.raises(NotFound, match=r"bundle\.json"):
        fleet.registry.register(ADMIN, "churn", replace(new, entries=no_info))
    assert rows(fleet, tables.model_version) == 0


@pytest.mark.parametrize(
    "path",
    [
        "../x",
        "/etc/passwd",
        "a/../b",
        "a//b",
        "./a",
        "a/",
        "",
        ".",
        "a\x00b",
        "a\nb",
        "b/" * 200 + "x",
    ],
)
def test_paths_that_leave_the_bundle_are_refused(fleet: Fleet, churn: Registrar, path: str) -> None:
    new = churn.new()
    entry = Entry(path, new.entries[0].sha256, new.entries[0].size)
    with pytest.raises(InvalidInput):
        fleet.registry.register(ADMIN, "churn", replace(new, entries=(*new.entries, entry)))


def test_files_named_twice_or_as_folders_are_refused(fleet: Fleet, churn: Registrar) -> None:
    new = churn.new()
    first = new.entries[0]
    for other in (first, Entry("model.joblib/inner", first.sha256, first.size)):
        with pytest.raises(InvalidInput):
            fleet.registry.register(ADMIN, "churn", replace(new, entries=(*new.entries, other)))
    odd = Entry("odd", first.sha256, first.size, 0o777)
    with pytest.raises(InvalidInput):
        fleet.registry.register(ADMIN, "churn", replace(new, entries=(*new.entries, odd)))


def test_an_unknown_model_used_is_refused_and_nothing_stays(fleet: Fleet, churn: Registrar) -> None:
    with pytest.raises(NotFound, match="ghost"):
        churn.version(uses=("ghost",))
    assert rows(fleet, tables.model_version) == 0


# Finding, aliases, deleting ----------------------------------------------------------------------


def test_a_version_is_found_by_number_name_alias_and_latest(fleet: Fleet, churn: Registrar) -> None:
    one, two = churn.version(), churn.version(version="0.5.0")
    get = fleet.registry.get_version
    assert get(ADMIN, "churn", "1").id == get(ADMIN, "churn", "1.0.0").id == one.id
    assert get(ADMIN, "churn", "latest").id == get(ADMIN, "churn", "2").id == two.id
    fleet.registry.set_alias(ADMIN, "churn", "champion", "1.0.0")
    assert get(ADMIN, "churn", "champion").aliases == ("champion",)
    fleet.registry.set_alias(ADMIN, "churn", "champion", "2")
    assert get(ADMIN, "churn", "champion").id == two.id
    fleet.registry.delete_alias(ADMIN, "churn", "champion")
    for gone in ("champion", "3", "9" * 40, "\u00b2"):
        with pytest.raises(NotFound):
            get(ADMIN, "churn", gone)
    with pytest.raises(NotFound):
        fleet.registry.delete_alias(ADMIN, "churn", "champion")


@pytest.mark.parametrize("name", ["latest", "7", "v7", "", "a.b", "a/b", "x" * 251])
def test_names_that_can_not_be_aliases(fleet: Fleet, churn: Registrar, name: str) -> None:
    churn.version()
    with pytest.raises(InvalidInput):
        fleet.registry.set_alias(ADMIN, "churn", name, "1")


def test_what_is_in_use_is_not_deleted(fleet: Fleet, churn: Registrar) -> None:
    made = churn.version()
    fleet.registry.set_alias(ADMIN, "churn", "champion", "1", protected=True)
    fleet.registry.set_alias(ADMIN, "churn", "candidate", "1")
    with fleet.database.begin() as connection:
        registry_store.hold(connection, made.id, "endpoint/churn")
        registry_store.hold(connection, made.id, "rollout/r1")
        registry_store.hold(connection, made.id, "rollout/r1")
    with pytest.raises(Referenced) as caught:
        fleet.registry.delete_version(ADMIN, "churn", "1")
    assert caught.value.fields["holders"] == ["endpoint/churn", "rollout/r1", "alias/champion"]
    with fleet.database.begin() as connection:
        registry_store.let_go(connection, made.id, "endpoint/churn")
        registry_store.let_go(connection, made.id, "rollout/r1")
    fleet.registry.delete_alias(ADMIN, "churn", "champion")
    fleet.registry.delete_version(ADMIN, "churn", "1")
    assert fleet.registry.list_versions(ADMIN, "churn") == []
    assert fleet.registry.get_model(ADMIN, "churn").latest_version is None
    assert fleet.lineage.around(Node("version", "churn@1.0.0")) == []


def test_latest_falls_back_when_the_newest_goes(fleet: Fleet, churn: Registrar) -> None:
    churn.version()
    churn.version()
    fleet.registry.delete_version(ADMIN, "churn", "latest")
    assert fleet.registry.get_version(ADMIN, "churn", "latest").sequence == 1


def test_a_version_becomes_ready_or_failed(fleet: Fleet, churn: Registrar) -> None:
    pending = churn.version()
    with pytest.raises(Conflict, match="pending"):
        fleet.registry.serving_variant(pending)
    ready = churn.ready()
    assert (ready.status, ready.serving) == ("ready", "compiled")
    assert fleet.registry.serving_variant(ready).kind == "compiled"
    fleet.registry.mark_failed(SYSTEM, pending, "does not load")
    found = fleet.registry.get_version(ADMIN, "churn", "1")
    assert (found.status, found.reason) == ("failed", "does not load")
    actions = [e.action for e in audit.events(fleet.database)]
    assert {"prepare-version", "fail-version"} <= set(actions)


def test_lineage_leads_back_to_the_data(fleet: Fleet, churn: Registrar) -> None:
    churn.version(dataset="flights@2013")
    churn.model("offer")
    offer = churn.version("offer", uses=("churn",), dataset="offers@1")
    edges = fleet.lineage.upstream(Node("version", offer.name))
    found = {(e.source.kind, e.source.name, e.relation, e.destination.kind) for e in edges}
    assert ("model", "churn", "feeds", "version") in found
    assert ("dataset", "offers@1", "trained", "run") in found
    assert ("run", offer.run_id, "produced", "version") in found


# Folders ---------------------------------------------------------------------------------------


def test_a_folder_is_made_whole_and_verifiable(fleet: Fleet, churn: Registrar) -> None:
    from modelfleet.core.blobs import FolderBlobStore
    from modelfleet.registry import BundleStore
    from modelfleet_worker.wire.bundle import verify

    made = churn.version()
    bundles = BundleStore(fleet.layout, FolderBlobStore(fleet.layout.blobs))
    entries = fleet.registry.entries(made.bundle_digest)
    folder = bundles.materialise(entries)
    assert folder == bundles.materialise(tuple(reversed(entries)))
    assert folder.name == made.bundle_digest
    verify(folder, made.bundle_digest)
    assert [p.name for p in folder.parent.iterdir()] == [made.bundle_digest]
    assert bundles.take(folder) == tuple(sorted(entries, key=lambda e: e.path))


def test_a_converter_can_not_smuggle_a_link_in(fleet: Fleet, tmp_path: Path) -> None:
    from modelfleet.core.blobs import FolderBlobStore
    from modelfleet.registry import BundleStore

    (tmp_path / "out" / "files").mkdir(parents=True)
    (tmp_path / "out" / "files" / "model").symlink_to(fleet.layout.signing_key)
    bundles = BundleStore(fleet.layout, FolderBlobStore(fleet.layout.blobs))
    with pytest.raises(InvalidInput, match="link"):
        bundles.take(tmp_path / "out")
    assert not [p for p in fleet.layout.blobs.rglob("*") if p.is_file()]


# Who may ---------------------------------------------------------------------------------------


def test_another_teams_models_are_not_there(fleet: Fleet, churn: Registrar) -> None:
    made = churn.version(dataset="d")
    stranger = principal(Role.VIEWER, "risk")
    registry = fleet.registry
    assert registry.list_models(stranger) == registry.list_versions(stranger) == []
    assert registry.list_versions(stranger, "churn") == []
    for forbidden in (
        lambda who: registry.get_model(who, "churn"),
        lambda who: registry.get_version(who, "churn", "1"),
        lambda who: registry.get_run(who, made.run_id or ""),
    ):
        for who in (stranger, NOBODY):
            with pytest.raises(NotAllowed):
                forbidden(who)
    own = principal(Role.VIEWER, "growth")
    assert [m.name for m in registry.list_models(own)] == ["churn"]
    assert registry.get_run(own, made.run_id or "").dataset == "d"


def test_pages_count_only_what_may_be_seen(fleet: Fleet, registrar: Registrar) -> None:
    for k in range(6):
        registrar.model(f"m{k}", "growth" if k % 3 == 2 else "risk")
    both = Principal("p", "p", (Grant(Role.VIEWER, "growth"),))
    assert [m.name for m in fleet.registry.list_models(both, limit=2)] == ["m2", "m5"]
    assert [m.name for m in fleet.registry.list_models(both, limit=2, offset=1)] == ["m5"]
    assert fleet.registry.list_models(NOBODY) == []


Verb = Callable[[Fleet, Principal, NewVersion], object]
VERBS: list[tuple[str, Verb]] = [
    ("register", lambda f, who, new: f.registry.register(who, "churn", new)),
    ("update", lambda f, who, _: f.registry.update_model(who, "churn", description="x")),
    ("alias", lambda f, who, _: f.registry.set_alias(who, "churn", "a", "1")),
    ("unalias", lambda f, who, _: f.registry.delete_alias(who, "churn", "a")),
]


@pytest.mark.parametrize(("name", "verb"), VERBS, ids=[name for name, _ in VERBS])
def test_writers_are_of_the_team_and_leave_an_event(
    fleet: Fleet, churn: Registrar, name: str, verb: Verb
) -> None:
    churn.version()
    if name == "unalias":
        fleet.registry.set_alias(ADMIN, "churn", "a", "1")
    before = len(audit.events(fleet.database))
    for who in (principal(Role.DEPLOYER, "risk"), principal(Role.VIEWER), principal(Role.APPROVER)):
        with pytest.raises(NotAllowed):
            verb(fleet, who, churn.new())
    assert len(audit.events(fleet.database)) == before
    verb(fleet, principal(Role.DATA_SCIENTIST, "growth"), churn.new())
    assert len(audit.events(fleet.database)) == before + 1


def test_only_approvers_and_admins_delete(fleet: Fleet, churn: Registrar) -> None:
    churn.version()
    for who in (principal(Role.DEPLOYER), principal(Role.APPROVER, "risk")):
        with pytest.raises(NotAllowed):
            fleet.registry.delete_version(who, "churn", "1")
    fleet.registry.delete_version(principal(Role.APPROVER, "growth"), "churn", "1")
