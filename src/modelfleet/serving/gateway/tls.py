"""TLS at both ends of the gateway. Certificates lie in files of their own, which Envoy watches, so
that a new one counts without a new listener or cluster.

Towards clients: the pair that the settings name. Towards workers on other hosts: mutual TLS with
certificates of the platform's authority.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from modelfleet.core.errors import InvalidInput
from modelfleet.serving.authority import worker_name

SERVER, CLIENT, TRUSTED = "server", "client", "trusted"
_TYPES = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3"
_PARAMETERS = {"tls_minimum_protocol_version": "TLSv1_2"}


def file_of(folder: Path, secret: str) -> Path:
    return folder / f"sds-{secret}.json"


def read_pair(certificate: Path, key: Path) -> tuple[bytes, bytes]:
    """Certificate chain and key (PEM). `InvalidInput` says what is wrong with them."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        chain, secret = certificate.read_bytes(), key.read_bytes()
    except OSError as error:
        raise InvalidInput(f"TLS: {error.filename} can't be read: {error.strerror}.") from error
    try:
        leaf = x509.load_pem_x509_certificates(chain)[0]
    except ValueError as error:
        raise InvalidInput(f"TLS: {certificate} holds no certificate in PEM.") from error
    try:
        private = load_pem_private_key(secret, None)
    except (ValueError, TypeError) as error:
        raise InvalidInput(f"TLS: {key} holds no private key in PEM without password.") from error
    if private.public_key() != leaf.public_key():
        raise InvalidInput(f"TLS: the key in {key} is not that of the certificate {certificate}.")
    if leaf.not_valid_after_utc < datetime.now(UTC):
        raise InvalidInput(f"TLS: {certificate} ended on {leaf.not_valid_after_utc:%Y-%m-%d}.")
    return chain, secret


def pair(name: str, certificate: bytes, key: bytes) -> dict[str, object]:
    """A file with one certificate and its key."""
    held = {
        "certificate_chain": {"inline_string": certificate.decode()},
        "private_key": {"inline_string": key.decode()},
    }
    return _secret(name, {"tls_certificate": held})


def authority(certificate: bytes) -> dict[str, object]:
    """A file with whom we trust."""
    trusted = {"trusted_ca": {"inline_string": certificate.decode()}}
    return _secret(TRUSTED, {"validation_context": trusted})


def _secret(name: str, content: dict[str, object]) -> dict[str, object]:
    return {"resources": [{"@type": f"{_TYPES}.Secret", "name": name, **content}]}


def to_clients(folder: Path) -> dict[str, object]:
    """The transport socket of the listener."""
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": f"{_TYPES}.DownstreamTlsContext",
            "common_tls_context": {
                "tls_params": _PARAMETERS,
                "alpn_protocols": ["h2", "http/1.1"],
                "tls_certificate_sds_secret_configs": [_from(folder, SERVER)],
            },
        },
    }


def to_workers(folder: Path, pool: str) -> dict[str, object]:
    """The transport socket towards workers of `pool` on other hosts."""
    named = {"san_type": "URI", "matcher": {"exact": worker_name(pool)}}
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": f"{_TYPES}.UpstreamTlsContext",
            "common_tls_context": {
                "tls_params": _PARAMETERS,
                "tls_certificate_sds_secret_configs": [_from(folder, CLIENT)],
                "combined_validation_context": {
                    "default_validation_context": {"match_typed_subject_alt_names": [named]},
                    "validation_context_sds_secret_config": _from(folder, TRUSTED),
                },
            },
        },
    }


def _from(folder: Path, secret: str) -> dict[str, object]:
    return {
        "name": secret,
        "sds_config": {
            "path_config_source": {"path": str(file_of(folder, secret))},
            "resource_api_version": "V3",
        },
    }
