"""What exists: models, versions, bundles, environments, runs, aliases, references.

Verbs: `RegistryService.create_model`, `update_model`, `register`, `set_alias`, `delete_version`,
`delete_model`, and their `get`, `list` and `find`. `bundles` turns blobs into folders.
"""

from modelfleet.registry.bundles import BundleStore, Entry
from modelfleet.registry.service import RegistryService
from modelfleet.registry.types import (
    Environment,
    Model,
    NewVersion,
    Placement,
    Run,
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
