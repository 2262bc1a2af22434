"""What exists: models, versions, bundles, environments, runs, aliases, references.

Verbs of `RegistryService`: on models (`models`), on versions (`versions`), on what a version counts
as (`standing`). It is bound to one namespace; `within` gives that of another. `bundles` turns blobs
into folders, `tracking` keeps training runs.
"""

from modelfleet.registry.bundles import BundleStore, Entry
from modelfleet.registry.service import RegistryService
from modelfleet.registry.tracking.types import Run
from modelfleet.registry.types import (
    Environment,
    Model,
    NewVersion,
    Placement,
    Variant,
    Version,
)

__all__ = [
    "BundleStore",
    "Entry",
    "Environment",
    "Model",
    "NewVersion",
    "Placement",
    "RegistryService",
    "Run",
    "Variant",
    "Version",
]
