"""Copies of a whole home: made while it runs, verified, restored into an empty one.

`create` takes a snapshot of the database and then copies what its rows refer to; content that the
place holds already is not copied again. `verify` reads every byte of a snapshot, `restore` builds
a home from it, on either store. `Place.snapshots` lists what there is.
"""

from modelfleet.backup.create import Created, create
from modelfleet.backup.manifest import Manifest
from modelfleet.backup.place import Place
from modelfleet.backup.restore import Restored, Verified, restore, verify
from modelfleet.backup.sealing import Seal, seal_from_key_file, seal_from_passphrase

__all__ = [
    "Created",
    "Manifest",
    "Place",
    "Restored",
    "Seal",
    "Verified",
    "create",
    "restore",
    "seal_from_key_file",
    "seal_from_passphrase",
    "verify",
]
