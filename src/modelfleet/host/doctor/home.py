"""The home folder: whose it is, its settings, keys and certificates."""

from __future__ import annotations

import os
import pwd
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from modelfleet.core.errors import FleetError
from modelfleet.host.doctor.findings import (
    Examined,
    Finding,
    fail,
    not_examined,
    ok,
    some,
    warn,
)
from modelfleet.host.workers import check_workers
from modelfleet.serving.gateway import tls

_SOON_DAYS = 14
_LEAF_SOON_DAYS = 2
"""Of leaves that last a week and are renewed every day."""


def folder(examined: Examined) -> Iterator[Finding]:
    home = examined.layout.home
    if not home.is_dir():
        yield fail(f"{home} is not there", "Start modelfleet up, or name another --home.")
        return
    found = home.stat()
    troubles = list(_private(examined))
    if found.st_uid != os.geteuid():
        owner = _name_of(found.st_uid)
        yield fail(f"{home} belongs to {owner}, not to {_name_of(os.geteuid())}", f"Be {owner}.")
    if found.st_mode & 0o022:
        yield fail(f"others may write in {home}", f"chmod go-w {home}")
    if not os.access(home, os.R_OK | os.W_OK | os.X_OK):
        yield fail(f"{home} can't be written", f"Give it back to its owner: chmod u+rwx {home}")
    yield from troubles
    if not troubles:
        yield ok(f"{home} belongs to {_name_of(found.st_uid)}")


def _private(examined: Examined) -> Iterator[Finding]:
    """Files whose content is nobody else's business."""
    layout = examined.layout
    paths = [layout.fleet_database, layout.evidence_database, layout.admin_key]
    given = examined.settings.database
    if given.password_file:
        paths.append(layout.home / given.password_file)
    if given.password or urlsplit(given.url).password:
        paths.append(layout.settings_file)
    for path in paths:
        if path.exists() and path.stat().st_mode & 0o077:
            yield fail(f"others may read {path}", f"chmod 600 {path}")


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def settings(examined: Examined) -> Iterator[Finding]:
    if examined.complaint:
        yield fail(examined.complaint, f"Mend {examined.layout.settings_file}, or the variables.")
        return
    try:
        examined.settings.tls  # noqa: B018 - it checks itself
    except FleetError as error:
        yield fail(error.message, "Set both, or none.")
        return
    path = examined.layout.settings_file
    yield ok(f"{path} can be read" if path.exists() else "no settings.toml: defaults count")


def keys(examined: Examined) -> Iterator[Finding]:
    layout = examined.layout
    if not layout.signing_key.exists():
        if layout.fleet_database.exists():
            remedy = "Restore keys/ from a backup; without it every key must be issued anew."
            yield fail(f"{layout.signing_key} is missing", remedy)
        else:
            yield not_examined("this home was never started")
        return
    loose = [
        path
        for path in (layout.keys, *layout.keys.iterdir())
        if path.stat().st_mode & 0o077 and path != layout.jwks
    ]
    if loose:
        remedy = "chmod 700 " + str(layout.keys) + "; chmod 600 " + str(layout.keys / "*")
        yield fail(f"others may read {some(str(path) for path in loose)}", remedy)
    try:
        _match(examined)
    except (ValueError, KeyError, OSError) as error:
        remedy = "Restore keys/ from a backup."
        yield fail(f"the signing key and {layout.jwks.name} don't fit: {error}", remedy)
        return
    if not loose:
        yield ok("the signing key is there, private, and the one that the gateway trusts")


def _match(examined: Examined) -> None:
    from joserfc.jwk import ECKey

    layout = examined.layout
    own = ECKey.import_key(layout.signing_key.read_bytes()).thumbprint()
    held = msgspec.json.decode(layout.jwks.read_bytes())["keys"]
    if own not in {ECKey.import_key(one).thumbprint() for one in held}:
        raise ValueError("the gateway trusts another key")


def certificates(examined: Examined) -> Iterator[Finding]:
    layout = examined.layout
    if examined.complaint or examined.settings.tls is None:
        yield ok("the gateway is not asked to speak TLS")
    else:
        pair = examined.settings.tls
        try:
            chain, _ = tls.read_pair(*pair)
        except FleetError as error:
            yield fail(error.message, "Put a certificate and its key where the settings say.")
        else:
            yield _ends(f"the gateway's certificate {pair[0]}", chain, _SOON_DAYS)
    client = tls.file_of(layout.gateway, tls.CLIENT)
    if layout.authority_certificate.exists():
        content = layout.authority_certificate.read_bytes()
        yield _ends("the platform's own authority", content, _SOON_DAYS)
    if client.exists():
        held = msgspec.json.decode(client.read_bytes())["resources"][0]["tls_certificate"]
        leaf = held["certificate_chain"]["inline_string"].encode()
        yield _ends("the gateway's certificate towards workers", leaf, _LEAF_SOON_DAYS)


def _ends(what: str, content: bytes, soon: int) -> Finding:
    from cryptography import x509

    end = x509.load_pem_x509_certificates(content)[0].not_valid_after_utc
    days = (end - datetime.now(UTC)).total_seconds() / 86400
    said = f"{what} ends on {end:%Y-%m-%d}"
    if days < 0:
        return fail(f"{what} ended on {end:%Y-%m-%d}", "Put a new one in its place.")
    if days < soon:
        return warn(f"{said}, in {days:.1f} days", "Put a new one in its place in time.")
    return ok(said)


def confinement(examined: Examined) -> Iterator[Finding]:
    """Can workers be kept from keys and databases here?"""
    if os.geteuid() != 0:
        yield ok(f"workers run as {_name_of(os.geteuid())}, like everything else")
        return
    if examined.settings.serving.allow_root_workers:
        yield warn("model code runs as root and may read keys", "Unset serving.allow_root_workers.")
        return
    if not _any(examined.layout.run):
        yield not_examined("this home was never started")
        return
    try:
        check_workers(examined.settings, sys.executable)
    except FleetError as error:
        yield fail(error.message, error.hint)
    else:
        yield ok(f"workers become {examined.settings.serving.worker_user} and see no keys")


def _any(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())
