"""A home with simple processes: `python fake_host.py keeper|agent HOME`.

`sleeper` is a plain process; `orphan` wants to die with its parent, as Envoy does; `late` is
stopped last and notes when.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from modelfleet.engines import PoolDemand
from modelfleet.engines.local import Agent, Files, ProcessSpec, WorkerKit, keep
from modelfleet.serving.pulse import create_control_block, read_pulse

WORKER = Path(__file__).with_name("fake_worker.py")
SLEEP = "import time; time.sleep(600)"
DIE_WITH_PARENT = f"import ctypes; ctypes.CDLL(None).prctl(1, 15, 0, 0, 0); {SLEEP}"


def files(home: Path) -> Files:
    return Files(home / "run", home / "logs")


def kit(home: Path) -> WorkerKit:
    def control(pool: str, replica: int) -> Path:
        return home / "run" / "control" / f"{pool}-{replica}.ctl"

    def spec(demand: PoolDemand, replica: int) -> ProcessSpec:
        argv = (
            *(sys.executable, str(WORKER), "--home", str(home)),
            *("--pool", demand.pool, "--replica", str(replica)),
            *("--control", str(control(demand.pool, replica))),
            *("--python", demand.python, "--incarnation", "0"),
        )
        return ProcessSpec(
            f"worker-{demand.pool}-{replica}",
            argv,
            stop_seconds=1.0,
            incarnation_from=len(argv) - 1,
        )

    return WorkerKit(
        spec,
        prepare=lambda pool, replica: create_control_block(control(pool, replica), None),
        pulse=lambda pool, replica: read_pulse(control(pool, replica)),
    )


def agent(home: Path) -> Agent:
    note = f"open({str(home / 'late')!r}, 'w').write('x')"
    late = f"import signal, sys; signal.signal(15, lambda *_: ({note}, sys.exit(0))); {SLEEP}"
    specs = [
        ProcessSpec("sleeper", (sys.executable, "-c", SLEEP)),
        ProcessSpec("orphan", (sys.executable, "-c", DIE_WITH_PARENT), detached=True),
        ProcessSpec("late", (sys.executable, "-c", late), last=True),
    ]
    return Agent(files(home), specs, kit(home))


def main() -> None:
    role, home = sys.argv[1], Path(sys.argv[2])
    if role == "keeper":
        keep((sys.executable, __file__, "agent", str(home)), files(home))
    elif agent(home).run() == "replace":
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


if __name__ == "__main__":
    main()
