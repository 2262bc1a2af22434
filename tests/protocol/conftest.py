"""One running modelfleet, and stock clients in an environment of their own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "e2e"))

from running import Platform


@pytest.fixture(scope="module")
def platform() -> Iterator[Platform]:
    made = Platform()
    try:
        made.up()
        yield made
    finally:
        made.end()


@pytest.fixture(scope="session")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A Python with that requirement alone: its pins would change ours."""
    made: dict[str, Path] = {}
    uv = Path(sys.executable).with_name("uv")

    def python(requirement: str) -> Path:
        if requirement not in made:
            folder = tmp_path_factory.mktemp("stock")
            made[requirement] = folder / "bin" / "python"
            subprocess.run([uv, "venv", "-q", "--python", sys.executable, folder], check=True)
            install = [uv, "pip", "install", "-q", "--python", made[requirement], requirement]
            subprocess.run(install, check=True)
        return made[requirement]

    return python
