"""One import, from the first item to the report."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from modelfleet.client import Client
from modelfleet.client.errors import ApiError, ClientError, Unreachable
from modelfleet.core.archives import ArchiveRefused
from modelfleet.importing.journal import Journal
from modelfleet.importing.registering import Registrar
from modelfleet.importing.runs import RunSink, model_outcome
from modelfleet.importing.types import (
    ATTENTION,
    IMPORTED,
    REFUSED,
    Attention,
    Found,
    Item,
    LoggedModel,
    Outcome,
    Refused,
    RunRecord,
    Source,
)


@dataclass(frozen=True)
class Options:
    """dry_run: look, tell, change nothing. wait: until the server has checked each version.
    unlisted, strict: see `Registrar`."""

    team: str = "imported"
    dry_run: bool = False
    wait: bool = True
    unlisted: bool = False
    strict: bool = False
    gaps: bool = False
    """go on past versions that could not be fetched, whose numbers then stay empty"""


def run(
    source: Source,
    client: Client,
    journal: Journal,
    options: Options,
    tell: Callable[[str], None] = lambda said: None,
) -> list[Outcome]:
    """Import everything that the source holds and that the journal does not know as imported.

    Raises `Unreachable` if the source or our server goes away; what is done stays done.
    """
    sink = RunSink.of(client)
    registrar = Registrar(
        client,
        run_id=sink.run_id,
        team=options.team,
        unlisted=options.unlisted,
        strict=options.strict,
        tell=tell,
    )
    work = _One(source, registrar, sink, journal, options)
    found: list[Outcome] = []
    waits_for: dict[str, str] = {}
    for item in source.items():
        tell(f"{len(found) + 1}: {item.title or item.model} {item.version or ''}")
        earlier = journal.imported(item.key)
        if earlier is not None:
            found.append(msgspec.structs.replace(earlier, earlier=True))
            continue
        before = waits_for.get(item.model) if item.sequence is not None else None
        outcome = work.of(item) if before is None else work.waiting(item, before)
        lost = outcome.state == ATTENTION and outcome.sequence is None
        if lost and item.sequence is not None and not (options.gaps or options.dry_run):
            waits_for.setdefault(item.model, item.title)
        if not options.dry_run:
            journal.add(outcome)
        found.append(outcome)
    return (
        found if options.dry_run or not options.wait else _settle(found, registrar, journal, tell)
    )


def _settle(
    found: list[Outcome], registrar: Registrar, journal: Journal, tell: Callable[[str], None]
) -> list[Outcome]:
    """Wait for what is new."""
    settled = []
    for outcome in found:
        if outcome.state == IMPORTED and outcome.what == "version" and not outcome.earlier:
            tell(f"waiting for {outcome.model}@{outcome.version}")
            now = registrar.wait(outcome)
            if now != outcome:
                journal.add(now)
            outcome = now
        settled.append(outcome)
    return settled


@dataclass(frozen=True)
class _One:
    source: Source
    registrar: Registrar
    sink: RunSink
    journal: Journal
    options: Options

    def of(self, item: Item) -> Outcome:
        """One item; whatever is wrong with it becomes its outcome."""
        with tempfile.TemporaryDirectory(prefix="modelfleet-import-") as folder:
            work = Path(folder)
            found: Found | RunRecord | LoggedModel | None = None
            try:
                found = self.source.take(item, work / "taken")
                return self._taken(item, found, work)
            except Refused as error:
                return self._not(item, REFUSED, str(error))
            except ArchiveRefused as error:
                return self._not(item, REFUSED, error.message)
            except Attention as error:
                return self._not(item, ATTENTION, str(error), self._keep(item, found))
            except Unreachable:
                raise
            except ApiError as error:
                if error.status in (401, 403):
                    raise
                return self._not(item, ATTENTION, str(error), self._keep(item, found))
            except (ClientError, OSError, ValueError) as error:
                return self._not(item, ATTENTION, str(error) or repr(error))

    def waiting(self, item: Item, before: str) -> Outcome:
        """Numbers go up only, so that what comes later waits."""
        return self._not(
            item,
            ATTENTION,
            f"It waits for {before}, which is not in yet: numbers go up only. Import again, or go "
            "past it with --leave-gaps.",
        )

    def _taken(self, item: Item, found: Found | RunRecord | LoggedModel, work: Path) -> Outcome:
        if isinstance(found, LoggedModel):
            if self.options.dry_run:
                return model_outcome(item, found, IMPORTED)
            return self.sink.write_model(item, found)
        if isinstance(found, RunRecord):
            if self.options.dry_run:
                return Outcome(item.key, item.what, item.model, None, IMPORTED, notes=found.notes)
            return self.sink.write(item, found, self.journal.kept)
        if self.options.dry_run:
            self.registrar.check(found)
            return Outcome(
                item.key,
                item.what,
                item.model,
                item.version,
                ATTENTION if found.unserved else IMPORTED,
                found.unserved,
                notes=found.notes,
                sequence=item.sequence,
            )
        facts = self.source.model_facts(item.model)
        return self.registrar.register(self.source.name, item, found, facts, work)

    def _not(self, item: Item, state: str, reason: str, kept: str = "") -> Outcome:
        return Outcome(
            item.key,
            item.what,
            item.model,
            item.version,
            state,
            " ".join(reason.split()),
            kept=kept,
        )

    def _keep(self, item: Item, found: Found | RunRecord | LoggedModel | None) -> str:
        """What was fetched but can't be registered is not lost."""
        if not isinstance(found, Found) or self.options.dry_run or not self.source.fetches:
            return ""
        place = (
            self.journal.kept / item.model / (item.version or str(item.sequence or "unversioned"))
        )
        shutil.rmtree(place, ignore_errors=True)
        place.parent.mkdir(parents=True, exist_ok=True)
        if found.path.is_dir():
            shutil.copytree(found.path, place, symlinks=True)
        else:
            place.mkdir()
            shutil.copyfile(found.path, place / found.path.name)
        return str(place)
