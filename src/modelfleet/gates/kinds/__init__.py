"""One module for each kind of gate: `KIND` says what it is told and how it checks.

Other packages bring kinds of their own by the entry point `modelfleet.gates`, `NAME = MODULE:KIND`,
where KIND is a `base.Kind`. A kind never knows whether it runs on the platform or on a laptop.
"""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points

from modelfleet.core.errors import InvalidInput
from modelfleet.fleetfile.gates import ENTRY_POINTS, KINDS
from modelfleet.gates.kinds.base import Case, Kind

__all__ = ["Case", "Kind", "find"]


def find(name: str) -> Kind:
    """Raises `InvalidInput` if nobody brings that kind, or what brings it is none."""
    if name in KINDS:
        found: Kind = importlib.import_module(f"modelfleet.gates.kinds.{name}").KIND
        return found
    for point in entry_points(group=ENTRY_POINTS):
        if point.name == name:
            loaded = point.load()
            if not isinstance(loaded, Kind):
                raise InvalidInput(f"The plug-in {point.value} is no kind of gate.")
            return loaded
    raise InvalidInput(f"There is no gate {name!r}.", hint=f"There are: {', '.join(KINDS)}.")
