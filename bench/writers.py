"""What writing costs on either store: threads that write without a pause, on one or two processes'
worth of connections. Each transaction continues the audit chain.

    .venv/bin/python bench/writers.py
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from pathlib import Path

import sqlalchemy as sa

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import modelfleet.wiring  # noqa: F401 - declares every table
from modelfleet.core import audit
from modelfleet.core.authorization import SYSTEM, Resource
from modelfleet.core.database import Database
from modelfleet.core.migrate import migrate
from postgres_server import Server

EACH = 20


def measure(place: Path | sa.URL, writers: int, planes: int, label: str) -> None:
    databases = [Database(place) for _ in range(planes)]
    migrate(databases[0])
    taken: list[float] = []

    def work(number: int) -> None:
        for _ in range(EACH if writers > 1 else EACH * 10):
            began = time.perf_counter()
            with databases[number % planes].begin() as connection:
                audit.record(connection, SYSTEM, "write", Resource("model", "m"))
            taken.append(time.perf_counter() - began)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(writers)]
    began, cpu = time.perf_counter(), time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    if audit.first_broken(databases[0]) is not None:
        raise SystemExit("the chain is broken")
    for one in databases:
        one.close()
    taken.sort()
    count = len(taken)
    print(
        f"{label}, {writers} writers, {planes} control planes: {count / seconds:.0f}/s, "
        f"p50 {taken[count // 2] * 1e3:.0f} ms, p99 {taken[count * 99 // 100] * 1e3:.0f} ms, "
        f"our CPU {cpu / count * 1e3:.2f} ms each",
        flush=True,
    )


def main() -> None:
    server = Server(fsync="on", synchronous_commit="on")
    try:
        for writers, planes in ((1, 1), (100, 1), (100, 2)):
            measure(server.url(server.create()), writers, planes, "PostgreSQL")
    finally:
        server.end()
    for writers in (1, 100):
        with tempfile.TemporaryDirectory() as folder:
            measure(Path(folder) / "fleet.db", writers, 1, "SQLite")


if __name__ == "__main__":
    main()
