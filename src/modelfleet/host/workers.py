"""How a worker is started on this machine: its command, its place, and what it may not."""

from __future__ import annotations

import compileall
import os
from pathlib import Path

import modelfleet_worker
from modelfleet.core.errors import InvalidInput
from modelfleet.core.files import write_atomically
from modelfleet.core.layout import Layout
from modelfleet.core.settings import Settings
from modelfleet.engines import PoolDemand
from modelfleet.engines.local import Confinement, ProcessSpec, WorkerKit
from modelfleet.engines.local.confine import plan, user_ids
from modelfleet.engines.local.pools import worker_name
from modelfleet.serving.pulse import create_control_block, keep_for_peers, read_pulse

_HANG_SECONDS = 30.0
_INHERITED = ("LANG", "OPENBLAS_NUM_THREADS", "OPENBLAS_CORETYPE", "TZ")


def worker_user(settings: Settings) -> str | None:
    """Whom workers become; None if they stay who we are."""
    return settings.serving.worker_user if os.geteuid() == 0 else None


def worker_kit(settings: Settings) -> WorkerKit:
    layout = settings.layout
    user = worker_user(settings)
    owner = user_ids(user) if user else None

    def prepare(pool: str, replica: int) -> None:
        create_control_block(layout.control_block(pool, replica), owner)
        layout.worker_socket(pool, replica).unlink(missing_ok=True)

    return WorkerKit(
        spec=lambda demand, replica: worker_spec(settings, demand, replica),
        prepare=prepare,
        pulse=lambda pool, replica: read_pulse(layout.control_block(pool, replica)),
        blame=lambda pool, replica: keep_for_peers(layout.control_block(pool, replica)),
        longest_run_seconds=max(settings.serving.request_timeout_ms / 1000, _HANG_SECONDS),
    )


def worker_spec(settings: Settings, demand: PoolDemand, replica: int) -> ProcessSpec:
    layout = settings.layout
    argv = (
        demand.python,
        "-m",
        "modelfleet_worker",
        *("--home", str(layout.home)),
        *("--pool", demand.pool),
        *("--replica", str(replica)),
        *("--socket", str(layout.worker_socket(demand.pool, replica))),
        *("--control", str(layout.control_block(demand.pool, replica))),
        *("--segment-mb", str(settings.serving.segment_mb)),
        *("--max-body", str(settings.serving.max_body_bytes)),
        *("--incarnation", "0"),
    )
    env = {
        "PATH": os.environ.get("PATH", os.defpath),
        "PYTHONPATH": str(layout.worker_package),
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        # Changes of this make running workers outdated: it is a worker's memory limit, too.
        "MODELFLEET_WORKER_MEMORY_MB": str(demand.memory_mb),
        "MODELFLEET_WORKER_CPUS": str(demand.cpus),
    }
    env |= generation(layout)
    env |= {name: os.environ[name] for name in _INHERITED if name in os.environ}
    return ProcessSpec(
        name=worker_name(demand.pool, replica),
        argv=argv,
        env=env,
        clean=True,
        incarnation_from=len(argv) - 1,
        stop_seconds=11.0,
        confinement=confinement(settings, demand.python),
    )


def generation(layout: Layout) -> dict[str, str]:
    """A variable that changes with each rolling restart; processes without it are outdated then."""
    try:
        return {"MODELFLEET_GENERATION": layout.generation.read_text("ascii")}
    except FileNotFoundError:
        return {}


def confinement(settings: Settings, python: str) -> Confinement:
    """What a worker sees: its interpreter, its package, bundles; never keys or databases."""
    layout = settings.layout
    found = Confinement(worker_user(settings), keep=_needed(layout), hide=(layout.home,))
    if settings.serving.allow_root_workers and found.user is not None:
        try:
            plan(found, python)
        except InvalidInput:
            return Confinement(None)
    return found


def check_workers(settings: Settings, python: str) -> None:
    """Raises `InvalidInput` if workers of this interpreter could not be started."""
    plan(confinement(settings, python), python)


def make_folders(settings: Settings) -> None:
    """What the agent and the workers need in the home, with the right owners.

    The worker user may create files in two folders; it can't touch what is not its own there.
    """
    layout = settings.layout
    for folder in (layout.home, *_needed(layout), layout.gateway, layout.logs):
        folder.mkdir(parents=True, exist_ok=True)
    user = worker_user(settings)
    for folder in (layout.segments, layout.sockets):
        if user is None:
            folder.chmod(0o700)
        else:
            os.chown(folder, 0, user_ids(user)[1])
            folder.chmod(0o1771)


def install_worker_package(layout: Layout) -> None:
    """Copy the package to where workers import it; nothing else of ours is on their path."""
    source = Path(modelfleet_worker.__file__).parent
    target = layout.worker_package / source.name
    wanted = {path.relative_to(source) for path in source.rglob("*.py")}
    for path in wanted:
        content = (source / path).read_bytes()
        copy = target / path
        if not copy.exists() or copy.read_bytes() != content:
            write_atomically(copy, content)
    for copy in target.rglob("*.py"):
        if copy.relative_to(target) not in wanted:
            copy.unlink()
    compileall.compile_dir(str(target), quiet=2)  # workers may not write there


def _needed(layout: Layout) -> tuple[Path, ...]:
    return (
        layout.worker_package,
        layout.desired,
        layout.control,
        layout.sockets,
        layout.segments,
        layout.bundles,
        layout.environments,
    )
