"""`python -m modelfleet.host.heartbeat --home HOME`: looks, notes what it saw, calls."""

from __future__ import annotations

import argparse
import signal
import threading
from pathlib import Path

from modelfleet.core.settings import load_settings
from modelfleet.host.heartbeat.beat import Heart


def main() -> None:
    parser = argparse.ArgumentParser(prog="modelfleet.host.heartbeat", description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    settings = load_settings(parser.parse_args().home)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    heart = Heart(settings)
    while not stop.is_set():
        stop.wait(heart.beat())


if __name__ == "__main__":
    main()
