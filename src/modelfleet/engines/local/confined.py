"""Run a program confined: `python -m modelfleet.engines.local.confined CONFINEMENT ARGV...`.

For those that have threads and so can't fork by themselves. CONFINEMENT is JSON.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from modelfleet.engines.local import confine
from modelfleet.engines.local.confine import Confinement


def command(confinement: Confinement, argv: Sequence[str]) -> list[str]:
    """The command line that runs `argv` confined."""
    return [
        sys.executable,
        "-P",  # nothing is imported from wherever we stand
        "-m",
        "modelfleet.engines.local.confined",
        msgspec.json.encode(confinement, enc_hook=str).decode(),
        *argv,
    ]


def main() -> None:
    confinement = msgspec.json.decode(sys.argv[1], type=Confinement, dec_hook=_path)
    argv = sys.argv[2:]
    confine.enter(confine.plan(confinement, argv[0]))
    os.chdir("/")
    os.execv(argv[0], argv)


def _path(_kind: type, text: object) -> Path:
    return Path(str(text))


if __name__ == "__main__":
    main()
