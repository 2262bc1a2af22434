"""Gates on this machine: what was not registered yet, in the form that the API shows."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from modelfleet.client import Client
from modelfleet.client.errors import ClientError
from modelfleet.client.saving import detect, own_python, read_rows, save
from modelfleet.client.saving.objects import Saved
from modelfleet.core.layout import Layout
from modelfleet.core.settings import load_settings
from modelfleet.gates.local import Checked, Workshop, run_all
from modelfleet.gates.requests import GateRequest, GateState
from modelfleet.gates.wanting import named_of
from modelfleet.host.workers import install_worker_package
from modelfleet.serving.progress import Progress
from modelfleet.wiring import confinement_of, owner_of

VERSION = "0.0.0-local"


def check_here(
    path: Path,
    model: str,
    entries: Sequence[object],
    beside: Path,
    client: Client | None,
    tell: Callable[[str], None],
    given: Mapping[str, Any],
) -> Any:
    """Saved as `register` would, then every gate. given: the options of `register`."""
    gates = named_of(entries)
    layout = Layout(cache_folder())
    settings = load_settings(layout.home, environment={})
    layout.home.mkdir(parents=True, exist_ok=True)
    layout.home.chmod(0o755)  # model code may run as somebody else
    install_worker_package(layout)
    shop = Workshop(
        layout,
        confinement_of(settings),
        owner_of(settings),
        settings.serving.memory_mb,
        client,
        beside,
    )

    def said(gate: str, progress: Progress) -> None:
        tell(f"{gate}: {progress.phase}")

    with tempfile.TemporaryDirectory(prefix="modelfleet-save-") as work:
        saved = saved_of(path, given, tell, Path(work))
        candidate = shop.subject(model, VERSION, saved, lambda p: said("environment", p))
        return shown(run_all(shop, candidate, gates, said))


def cache_folder() -> Path:
    named = os.environ.get("MODELFLEET_CACHE")
    base = Path(named) if named else Path.home() / ".cache" / "modelfleet"
    return base / "gates"


def saved_of(
    path: Path, given: Mapping[str, Any], tell: Callable[[str], None], work: Path
) -> Saved:
    if given["kind"] is None and detect(path) == "bundle":
        files: dict[str, bytes | Path] = {
            one.relative_to(path).as_posix(): one
            for one in sorted(path.rglob("*"))
            if one.is_file()
        }
        if "bundle.json" not in files:
            raise ClientError(f"{path} has no bundle.json.")
        return Saved(files, tuple(given["requirements"]), given["python"] or own_python())
    return save(
        path,
        None if given["example"] is None else read_rows(given["example"]),
        features=given["features"].split(",") if given["features"] else None,
        reference=None if given["reference"] is None else read_rows(given["reference"]),
        requirements=given["requirements"] or None,
        python=given["python"],
        kind=given["kind"],
        source=given["source"],
        class_name=given["class_name"],
        tell=tell,
        work=work,
    )


def shown(found: Checked) -> Any:
    states = tuple(
        GateState(one.name, one.kind, one.spec.blocking, "done", None, False, run, {})
        for one, run in found.runs
    )
    against = found.champion.version if found.champion else None
    candidate = found.candidate
    request = GateRequest("", candidate.model, candidate.version, against, "", "", states)
    told = {"request": request, "verdict": request.verdict, "ended": True}
    return msgspec.json.decode(msgspec.json.encode(told))
