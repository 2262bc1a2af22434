"""Tokens: what is signed is accepted, everything else is refused."""

from __future__ import annotations

import base64
import json
import stat
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey

from modelfleet.core.claims import scope_claims
from modelfleet.core.errors import Unauthenticated
from modelfleet.core.keys import SigningKey
from modelfleet.core.layout import Layout


@pytest.fixture
def home(tmp_path: Path) -> Layout:
    return Layout(tmp_path)


@pytest.fixture
def signer(home: Layout) -> SigningKey:
    return SigningKey(home)


def forge(home: Layout, header: dict[str, Any] | None = None, **changed: Any) -> str:
    """Signed with the home's own key, but with other claims; None drops one."""
    now = int(time.time())
    claims: dict[str, Any] = {
        "iss": "modelfleet",
        "aud": "modelfleet",
        "sub": "p1",
        "jti": "j1",
        "iat": now,
        "exp": now + 60,
        "models": ["*"],
    }
    claims = {k: v for k, v in (claims | changed).items() if v is not None}
    key = ECKey.import_key(home.signing_key.read_bytes())
    return jwt.encode({"alg": "ES256"} | (header or {}), claims, key, algorithms=["ES256"])


def plain(part: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()


def test_what_was_issued_is_accepted(signer: SigningKey, home: Layout) -> None:
    text, token = signer.issue("p1", "bob", models=("churn", "fraud"), seconds=60)
    assert signer.verify(text) == token
    assert SigningKey(home).verify(text) == token
    assert token.models == ("churn", "fraud")
    assert signer.verify(forge(home)).principal_id == "p1"


def test_keys_are_private_and_the_public_half_is_public(signer: SigningKey, home: Layout) -> None:
    assert stat.S_IMODE(home.keys.stat().st_mode) == 0o700
    assert stat.S_IMODE(home.signing_key.stat().st_mode) == 0o600
    (key,) = json.loads(home.jwks.read_bytes())["keys"]
    assert "d" not in key
    text, _ = signer.issue("p1", "bob", models=(), seconds=60)
    jwt.decode(text, ECKey.import_key(key), algorithms=["ES256"])


@pytest.mark.parametrize(
    "changed",
    [
        {"exp": 1},
        {"exp": None},
        {"exp": "soon"},
        {"iss": "someone"},
        {"iss": None},
        {"aud": "someone"},
        {"aud": None},
        {"sub": None},
        {"jti": None},
        {"models": None},
        {"nbf": 4_000_000_000},
    ],
    ids=str,
)
def test_claims_that_are_wrong_are_refused(
    signer: SigningKey, home: Layout, changed: dict[str, Any]
) -> None:
    with pytest.raises(Unauthenticated):
        signer.verify(forge(home, **changed))


def test_another_key_is_refused(signer: SigningKey, tmp_path: Path) -> None:
    other = SigningKey(Layout(tmp_path / "other"))
    text, _ = other.issue("p1", "bob", models=("*",), seconds=60)
    with pytest.raises(Unauthenticated):
        signer.verify(text)


def test_changed_claims_are_refused(signer: SigningKey) -> None:
    text, _ = signer.issue("p1", "bob", models=(), seconds=60)
    header, claims, signature = text.split(".")
    inside = json.loads(base64.urlsafe_b64decode(claims + "=="))
    inside["models"] = ["*"]
    with pytest.raises(Unauthenticated):
        signer.verify(f"{header}.{plain(inside)}.{signature}")


def test_no_algorithm_and_confused_algorithms_are_refused(signer: SigningKey, home: Layout) -> None:
    text, _ = signer.issue("p1", "bob", models=("*",), seconds=60)
    _, claims, signature = text.split(".")
    forged = [f"{plain({'alg': alg})}.{claims}." for alg in ("none", "None", "NONE", "")]
    forged += [f"{plain({'alg': 'none'})}.{claims}.{signature}"]
    inside = json.loads(base64.urlsafe_b64decode(claims + "=="))
    public = ECKey.import_key(home.signing_key.read_bytes()).as_pem(private=False)
    for secret in (public, home.jwks.read_bytes()):
        key = OctKey.import_key(base64.urlsafe_b64encode(secret).decode())
        forged.append(jwt.encode({"alg": "HS256"}, inside, key, algorithms=["HS256"]))
    own = ECKey.generate_key("P-256")
    embedded = {"jwk": own.as_dict(private=False), "jku": "http://127.0.0.1/keys"}
    forged.append(jwt.encode({"alg": "ES256"} | embedded, inside, own, algorithms=["ES256"]))
    for one in forged:
        with pytest.raises(Unauthenticated):
            signer.verify(one)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.text(max_size=60) | st.lists(st.text("aZ0_-=é\x00", max_size=8)).map(".".join))
def test_rubbish_is_refused_and_nothing_else_happens(signer: SigningKey, text: str) -> None:
    with pytest.raises(Unauthenticated):
        signer.verify(text)


@pytest.mark.parametrize(
    ("scopes", "claims"),
    [
        ((), {}),
        (("a",), {"named": ",a,"}),
        (("a", "b"), {"named": ",a,b,"}),
        (("a", "*"), {"scope": "*"}),
        (("a:infer", "b"), {"scope": ",a:infer,b,"}),
        (("*:metadata",), {"scope": ",*:metadata,"}),
    ],
)
def test_scopes_as_the_gateway_reads_them(
    scopes: tuple[str, ...], claims: dict[str, object]
) -> None:
    assert scope_claims(scopes) == claims
