"""The platform's own certificate authority: proves gateway and workers of several hosts to each
other.

The key of the authority never leaves HOME/keys. Leaves are short-lived and name who holds them by
a URI, as SPIFFE does: `spiffe://modelfleet/gateway` and `spiffe://modelfleet/worker/POOL`.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from modelfleet.core.files import write_atomically
from modelfleet.core.layout import Layout

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

GATEWAY = "spiffe://modelfleet/gateway"
LEAF_DAYS = 7
_AUTHORITY_DAYS = 3650
_SKEW = timedelta(minutes=5)


def worker_name(pool: str) -> str:
    """The URI that the certificate of a worker of `pool` must hold."""
    return f"spiffe://modelfleet/worker/{pool}"


class Authority:
    """Issues certificates in the name of this home; made when it is first used."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def certificate(self) -> bytes:
        """The authority's own certificate (PEM): what both sides trust."""
        self._load()
        return self._layout.authority_certificate.read_bytes()

    def issue(self, name: str, *, days: float = LEAF_DAYS) -> tuple[bytes, bytes]:
        """Certificate and key (PEM) for `name`, for either end of a connection."""
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import ExtendedKeyUsageOID

        parent, parent_key = self._load()
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
        leaf = (
            _builder("modelfleet leaf", key)
            .issuer_name(parent.subject)
            .not_valid_before(now - _SKEW)
            .not_valid_after(now + timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier(name)]), critical=True
            )
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(parent_key.public_key()),
                critical=False,
            )
            .sign(parent_key, hashes.SHA256())
        )
        return _pem(leaf), _key_pem(key)

    def _load(self) -> tuple[x509.Certificate, EllipticCurvePrivateKey]:
        from cryptography import x509
        from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        if not self._layout.authority_key.exists():
            self._create()
        key = load_pem_private_key(self._layout.authority_key.read_bytes(), None)
        assert isinstance(key, EllipticCurvePrivateKey)
        held = self._layout.authority_certificate.read_bytes()
        return x509.load_pem_x509_certificate(held), key

    def _create(self) -> None:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec

        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        made = (
            _builder("modelfleet authority", key)
            .issuer_name(_called("modelfleet authority"))
            .not_valid_before(now - _SKEW)
            .not_valid_after(now + timedelta(days=_AUTHORITY_DAYS))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
            )
            .sign(key, hashes.SHA256())
        )
        self._layout.keys.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomically(self._layout.authority_certificate, _pem(made), 0o600)
        write_atomically(self._layout.authority_key, _key_pem(key), 0o600)


def _builder(name: str, key: EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    from cryptography import x509

    return (
        x509.CertificateBuilder()
        .subject_name(_called(name))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
    )


def _called(name: str) -> x509.Name:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _pem(certificate: x509.Certificate) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM)


def _key_pem(key: EllipticCurvePrivateKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
