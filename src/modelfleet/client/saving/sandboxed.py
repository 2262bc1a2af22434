"""The sandbox in which a model is asked what it takes."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import msgspec

from modelfleet.client.errors import ClientError
from modelfleet.client.saving.drafts import Draft

if TYPE_CHECKING:
    from modelfleet_worker.sandbox import Report

MADE = ("bundle.json", "example.json", "reference.json")
_CPU_SECONDS = 600


class Box:
    """One draft's. `report` is there after the model was asked."""

    def __init__(self, draft: Draft, wanted: bool) -> None:
        self._folder = draft.folder.resolve()
        self._runtime = draft.runtime
        self._wanted = wanted
        self.report: Report | None = None
        for name in ("made", "tmp"):
            (self._folder / name).mkdir(exist_ok=True)

    def arguments(self) -> list[str]:
        """What comes behind the interpreter."""
        module = ["modelfleet_worker.describe", str(self._folder)]
        if not self._wanted:
            return ["-m", *module]
        return ["-m", "modelfleet_worker.sandbox", self._policy(), *module]

    def _policy(self) -> str:
        from modelfleet_worker.sandbox import Policy, imports_of, memory_of
        from modelfleet_worker.wire.vocabulary import RUNTIMES

        files = [path for path in (self._folder / "files").rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in files)
        found = Policy(
            read=(str(self._folder),),
            write=(str(self._folder / "tmp"), str(self._folder / "made")),
            memory_bytes=memory_of(self._runtime, size),
            cpu_seconds=_CPU_SECONDS,
            imports=imports_of(self._runtime, RUNTIMES[self._runtime].module),
        )
        return msgspec.json.encode(found).decode()

    def read(self, said: str) -> str:
        """What the model's process said, without the report that it begins with."""
        if not self._wanted:
            return said
        from modelfleet_worker.sandbox import Report, warning

        first, _, rest = said.partition("\n")
        try:
            self.report = msgspec.json.decode(first, type=Report)
        except msgspec.DecodeError:
            return said  # it ended before it was in
        if complaint := warning(self.report):
            warnings.warn(complaint, RuntimeWarning, stacklevel=2)
        return rest

    def made(self) -> dict[str, bytes]:
        """The files of the bundle that the model's process wrote, and no others."""
        found = {}
        for name in MADE:
            path = self._folder / "made" / name
            if path.is_symlink() or (path.exists() and not path.is_file()):
                raise ClientError(f"The model's process left {name} as something else than a file.")
            if path.exists():
                found[name] = path.read_bytes()
        return found
