"""Environments of models, built once for all platforms of a test run.

A platform that ends leaves those that it built; one that starts finds them as links. Whoever
wants to see one built, or changes one, does without (`Platform(shared=False)`).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

_VARIABLE = "FLEET_TEST_ENVIRONMENTS"


def begin() -> None:
    """Called once, by the process that the others inherit variables from."""
    folder = Path(tempfile.mkdtemp(prefix="mfenv"))
    folder.chmod(0o755)  # workers run as another user
    os.environ[_VARIABLE] = str(folder)


def end() -> None:
    shutil.rmtree(os.environ.pop(_VARIABLE), ignore_errors=True)


def lend(folder: Path) -> None:
    """Put links to all that there are into the folder of a home's environments."""
    shared = _shared()
    if shared is not None:
        folder.mkdir(mode=0o755, exist_ok=True)
        for place in shared.iterdir():
            (folder / place.name).symlink_to(place)


def keep(folder: Path) -> None:
    """Take over what was built in that folder."""
    shared = _shared()
    if shared is not None and folder.is_dir():
        for place in folder.iterdir():
            if not place.is_symlink() and not place.name.startswith("."):
                with contextlib.suppress(OSError):  # another one built it, too
                    place.rename(shared / place.name)


def _shared() -> Path | None:
    return Path(os.environ[_VARIABLE]) if _VARIABLE in os.environ else None
