"""`python -m modelfleet_worker`: one worker process. The host agent calls it."""

from __future__ import annotations

import argparse
from pathlib import Path

from modelfleet_worker.process import Arguments, main
from modelfleet_worker.server import MAX_BODY


def _arguments() -> Arguments:
    parser = argparse.ArgumentParser(prog="modelfleet_worker", description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--pool", required=True)
    parser.add_argument("--replica", type=int, required=True)
    parser.add_argument("--socket", type=Path, required=True)
    parser.add_argument("--control", type=Path, required=True)
    parser.add_argument("--incarnation", type=int, required=True)
    parser.add_argument("--segment-mb", type=int, default=64)
    parser.add_argument("--max-body", type=int, default=MAX_BODY, help="bytes")
    parser.add_argument("--tcp", metavar="HOST:PORT", help="listen here, too (for measuring)")
    parser.add_argument("--tls", metavar="HOST:PORT", help="listen here for the gateway, by TLS")
    parser.add_argument("--tls-cert", type=Path, help="our certificate chain, PEM")
    parser.add_argument("--tls-key", type=Path, help="its key, PEM")
    parser.add_argument(
        "--tls-ca", type=Path, help="the authority of the gateway's certificate, PEM"
    )
    found = Arguments(**vars(parser.parse_args()))
    try:
        _ = found.tls_files
    except ValueError as error:
        parser.error(str(error))
    return found


if __name__ == "__main__":
    main(_arguments())
