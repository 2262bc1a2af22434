"""Writing the archive."""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from modelfleet.core.errors import Conflict, FleetError, InvalidInput
from modelfleet.host.doctor import Examined, Report, examine
from modelfleet.host.support import parts
from modelfleet.host.support.redact import Redactor

_ENDINGS = (".tar.gz", ".tgz")


@dataclass(frozen=True)
class Bundle:
    path: Path
    bytes: int
    files: tuple[str, ...]
    omitted: tuple[str, ...]
    """parts that could not be read, and why"""


def collect(home: Path, output: Path, *, lines: int = 500) -> Bundle:
    """Write the archive, for its owner alone. lines: of the end of each log.

    Works on a stopped or broken home: what can't be read is named and left out. Raises
    `InvalidInput` (no such home, not a name of an archive) and `Conflict` (the file exists).
    """
    if not output.name.endswith(_ENDINGS):
        raise InvalidInput(f"{output} does not end in .tar.gz.")
    if not home.is_dir():
        raise InvalidInput(f"There is no home {home}.", hint="Name another one: --home.")
    if output.exists():
        raise Conflict(f"{output} exists already.", hint="Choose another name.")
    report = examine(home)
    examined = Examined(home)
    redactor = Redactor(examined.settings)
    files: list[str] = []
    omitted: list[str] = []
    handle, name = tempfile.mkstemp(dir=output.parent, prefix=f".{output.name}.")
    try:
        with (
            os.fdopen(handle, "wb") as stream,
            tarfile.open(fileobj=stream, mode="w:gz") as archive,
        ):
            for path, text in _all(report, examined, lines, omitted):
                clean = redactor.clean(text)
                if redactor.holds(clean):
                    raise FleetError(f"A secret would be left in {path}; nothing was written.")
                _add(archive, path, clean.encode())
                files.append(path)
        os.link(name, output)  # unlike a rename, it never replaces a file
    finally:
        Path(name).unlink(missing_ok=True)
    return Bundle(output, output.stat().st_size, tuple(files), tuple(omitted))


def _all(
    report: Report, examined: Examined, lines: int, omitted: list[str]
) -> Iterator[parts.Part]:
    yield parts.readme(report)
    yield parts.doctor(report)
    for part in parts.SINGLE:
        try:
            yield part(examined)
        except Exception as error:  # noqa: BLE001 - a broken part is a reason to want the others
            omitted.append(f"{part.__name__}: {type(error).__name__}")
    for name, many in (
        ("gateway", parts.gateway(examined)),
        ("logs", parts.log_ends(examined, lines)),
    ):
        try:
            yield from many
        except (OSError, ValueError) as error:
            omitted.append(f"{name}: {type(error).__name__}")
    if omitted:
        yield "omitted.txt", "\n".join(omitted) + "\n"


def _add(archive: tarfile.TarFile, path: str, content: bytes) -> None:
    member = tarfile.TarInfo(f"modelfleet-support/{path}")
    member.size, member.mode, member.mtime = len(content), 0o600, int(time.time())
    archive.addfile(member, io.BytesIO(content))
