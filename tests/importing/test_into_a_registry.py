"""An import into a real registry: cut off anywhere, with few rights, over what is there already."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import uvicorn

from faces import app_over
from modelfleet.client import Client
from modelfleet.core.authorization import Grant, Role
from modelfleet.importing import Found, Item, Options, Outcome, RunRecord, run
from modelfleet.importing.journal import Journal
from modelfleet.importing.runs import KEY_TAG
from modelfleet.importing.types import MetricPoint
from modelfleet.wiring import Fleet
from people import ADMIN

RUN = "mlflow:run:" + "a" * 32


class Killed(BaseException):
    """What a kill looks like from inside."""


class Numbered:
    """One run and the versions 2 and 5 of `churn`; nothing here can be served."""

    name = "numbered"
    fetches = True

    def items(self) -> Iterator[Item]:
        yield Item(RUN, "training", what="run", title="a run")
        for sequence in (2, 5):
            key = f"mlflow:version:there:churn:{sequence}"
            yield Item(key, "churn", title=f"churn {sequence}", sequence=sequence)

    def take(self, item: Item, work: Path) -> Found | RunRecord:
        work.mkdir()
        (work / "weights.bin").write_bytes(item.key.encode())
        if item.what == "run":
            points = [MetricPoint("loss", value, 9, k) for k, value in enumerate((0.5, 0.25))]
            files = {"notes/weights.bin": str(work / "weights.bin")}
            return RunRecord(
                RUN, "training", "first", started=5, ended=9, metrics=points, artifacts=files
            )
        return Found(
            work,
            unserved="no MLmodel",
            source_uri=f"http://there/{item.sequence}",
            experiment="training",
            run_key=RUN,
            description="kept",
            tags={"approved": "yes"},
            aliases=["champion"] if item.sequence == 5 else [],
            stage="prod" if item.sequence == 5 else "",
        )

    def model_facts(self, model: str) -> Mapping[str, object]:
        return {"description": "who leaves"}


@pytest.fixture
def address(fleet: Fleet) -> Iterator[str]:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        config = uvicorn.Config(app_over(fleet), lifespan="off", log_level="error")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([place],))
        thread.start()
        yield f"http://127.0.0.1:{place.getsockname()[1]}"
        server.should_exit = True
        thread.join()


@pytest.fixture
def client(fleet: Fleet, address: str) -> Iterator[Client]:
    """Of somebody who may register, not roll out."""
    fleet.identity.create_principal(ADMIN, "ada", "service")
    fleet.identity.add_grant(ADMIN, "ada", Grant(Role.DATA_SCIENTIST, "growth"))
    text, _ = fleet.identity.create_key(ADMIN, "ada", seconds=600)
    with Client(address, text) as made:
        yield made


def imported(client: Client, folder: Path) -> list[Outcome]:
    with Journal(folder) as journal:
        return run(Numbered(), client, journal, Options(team="growth"))


def check(fleet: Fleet) -> None:
    versions = {one.sequence: one for one in fleet.registry.list_versions(ADMIN, "churn")}
    assert set(versions) == {2, 5}
    assert {one.status for one in versions.values()} == {"registered"}
    assert versions[5].aliases == ("champion",)
    assert versions[2].description == "kept"
    assert versions[2].tags["approved"] == "yes"
    made = {one.run_id for one in versions.values()}
    assert len(made) == 1
    (found,) = fleet.tracking.search_runs(ADMIN, ["1"]).items
    assert {found.id} == made
    history = fleet.tracking.metric_history(ADMIN, found.id, "loss").items
    assert [(one.value, one.step) for one in history] == [(0.5, 0), (0.25, 1)]
    files = fleet.registry.run_folder(ADMIN, found.id)
    assert files
    assert [one.path for one in fleet.tracking.list_artifacts(ADMIN, f"{files}/notes")]


def test_twice_is_once_and_a_protected_stage_is_a_note(
    fleet: Fleet, client: Client, tmp_path: Path
) -> None:
    first = imported(client, tmp_path / "a")
    assert [(one.state, one.sequence) for one in first] == [
        ("imported", None),
        ("attention", 2),
        ("attention", 5),
    ]
    assert any("prod" in note for note in first[2].notes)
    assert not any(one.kept for one in first)
    check(fleet)
    fleet.registry.set_alias(ADMIN, "churn", "champion", "2")
    again = imported(client, tmp_path / "without the journal")
    assert [one.sequence for one in again] == [None, 2, 5]
    assert fleet.registry.get_version(ADMIN, "churn", "champion").sequence == 2
    fleet.registry.set_alias(ADMIN, "churn", "champion", "5")
    check(fleet)


@pytest.mark.parametrize("call", range(1, 20))
def test_cut_off_after_any_call(
    fleet: Fleet, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    """The server did what was asked; the import dies before it hears so."""
    from modelfleet.client.transport import Transport

    whole, made = Transport.call, [0]

    def counted(self: Transport, *given: object, **named: object) -> object:
        answer = whole(self, *given, **named)  # type: ignore[arg-type]
        made[0] += 1
        if made[0] == call:
            raise Killed
        return answer

    with monkeypatch.context() as patched:
        patched.setattr(Transport, "call", counted)
        with pytest.raises(Killed):
            imported(client, tmp_path / "a")
    imported(client, tmp_path / "a")
    check(fleet)


def test_numbers_that_are_taken(fleet: Fleet, client: Client, tmp_path: Path) -> None:
    client.create_model("churn", team="growth")
    (tmp_path / "own.bin").write_bytes(b"own")
    client.register_files(
        "churn",
        {"own.bin": tmp_path / "own.bin"},
        requirements=(),
        python="3.11",
        sequence=2,
        source_uri="http://own",
    )
    found = imported(client, tmp_path / "a")
    assert "has a version 2 already" in found[1].reason
    assert (Path(found[1].kept) / "weights.bin").exists()
    assert "waits for churn 2" in found[2].reason
    assert len(fleet.registry.list_versions(ADMIN, "churn")) == 1
    assert KEY_TAG not in fleet.registry.get_version(ADMIN, "churn", "2").tags
