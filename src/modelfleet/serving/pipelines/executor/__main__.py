"""`python -m modelfleet.serving.pipelines.executor`: one process. The host agent calls it."""

from __future__ import annotations

import argparse
from pathlib import Path

from modelfleet.serving.pipelines.executor.process import Arguments, main


def _arguments() -> Arguments:
    parser = argparse.ArgumentParser(prog="modelfleet.serving.pipelines.executor")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--replica", type=int, required=True)
    parser.add_argument("--segment-mb", type=int, default=64)
    parser.add_argument("--max-body", type=int, default=16 << 20, help="bytes")
    parser.add_argument("--incarnation", type=int, required=True)
    return Arguments(**vars(parser.parse_args()))


if __name__ == "__main__":
    main(_arguments())
