"""The host agent's process: `python -m modelfleet.host --home HOME`. Started by `run`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from modelfleet.core.errors import FleetError
from modelfleet.core.settings import load_settings
from modelfleet.host.compose import compose

_TAKEN = 75


def main() -> int:
    parser = argparse.ArgumentParser(prog="modelfleet.host", description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    home = parser.parse_args().home
    try:
        end = compose(load_settings(home)).run()
    except FleetError as error:
        sys.stderr.write(f"modelfleet: {error.message} {error.hint}\n")
        return error.exit_code
    if end == "replace":
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    return _TAKEN if end == "taken" else 0


if __name__ == "__main__":
    sys.exit(main())
