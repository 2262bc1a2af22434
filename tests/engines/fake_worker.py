"""A worker without models, as bad as told: its behaviour stands in the file `HOME/behaviour`.

ok | silent (no heartbeat any more) | eat:MB | crash | never (never ready) | stubborn (no SIGTERM)
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path

from modelfleet_worker.wire.control import ControlBlock, State


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("home", "pool", "replica", "control", "incarnation"):
        parser.add_argument(f"--{name}")
    known, _ = parser.parse_known_args()
    behaviour_file = Path(known.home) / "behaviour"
    behaviour = behaviour_file.read_text() if behaviour_file.exists() else "ok"
    if behaviour == "crash":
        sys.exit("this model can't be loaded")
    signal.signal(signal.SIGTERM, lambda *_: None if behaviour == "stubborn" else sys.exit(0))
    block = ControlBlock.open(Path(known.control), writable=True)
    block.begin(int(known.incarnation))
    if behaviour != "never":
        block.set_state(State.READY)
    eaten = bytearray()
    while True:
        if behaviour != "silent":
            block.heartbeat()
        if behaviour.startswith("eat:") and not eaten:
            eaten = bytearray(b"x") * (int(behaviour[4:]) << 20)
        time.sleep(0.05)


if __name__ == "__main__":
    main()
