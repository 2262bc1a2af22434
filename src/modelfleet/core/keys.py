"""The signing key and the one format of key: an ES256-signed JSON Web Token (RFC 7519).

The gateway verifies tokens from `jwks.json` alone; no request asks the control plane.
"""

from __future__ import annotations

import time
from functools import lru_cache

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey

from modelfleet.core.claims import AUDIENCE, ISSUER, Token, scope_claims
from modelfleet.core.errors import Unauthenticated
from modelfleet.core.files import write_atomically
from modelfleet.core.ids import new_id
from modelfleet.core.layout import Layout


class SigningKey:
    """Signs and verifies tokens with the home's own P-256 key."""

    def __init__(self, layout: Layout) -> None:
        if not layout.signing_key.exists():
            _create(layout)
        self._key = ECKey.import_key(layout.signing_key.read_bytes())
        self._verified = lru_cache(4096)(self._decode)

    @property
    def thumbprint(self) -> str:
        """Which key it is (RFC 7638)."""
        return self._key.thumbprint()

    def issue(
        self,
        principal_id: str,
        name: str,
        *,
        models: tuple[str, ...],
        seconds: int,
        teams: tuple[str, ...] = (),
        priority: str = "",
    ) -> tuple[str, Token]:
        """A token for `principal_id` with the scopes `models` (see `modelfleet.core.claims`).

        teams: for rules that send a team's requests to a version of their own.
        priority: of its requests; without one, the endpoint's.
        """
        now = int(time.time())
        token = Token(new_id(), principal_id, models, now + seconds)
        claims: dict[str, object] = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": principal_id,
            "name": name,
            "jti": token.id,
            "iat": now,
            "exp": token.expires_at,
            "models": list(models),
            **scope_claims(models),
        }
        if teams:
            claims["teams"] = " ".join(sorted(teams))
        if priority:
            claims["priority"] = priority
        header = {"alg": "ES256", "kid": self._key.thumbprint()}
        return jwt.encode(header, claims, self._key, algorithms=["ES256"]), token

    def verify(self, text: str) -> Token:
        token = self._verified(text)
        if token.expires_at <= time.time():
            raise Unauthenticated("The key is not valid: it expired.")
        return token

    def _decode(self, text: str) -> Token:
        try:
            claims = jwt.decode(text, self._key, algorithms=["ES256"]).claims
            jwt.JWTClaimsRegistry(
                iss={"essential": True, "value": ISSUER},
                aud={"essential": True, "value": AUDIENCE},
                exp={"essential": True},
                sub={"essential": True},
                jti={"essential": True},
            ).validate(claims)
            return Token(claims["jti"], claims["sub"], tuple(claims["models"]), claims["exp"])
        except (JoseError, ValueError, KeyError, TypeError) as error:
            raise Unauthenticated(f"The key is not valid: {error}") from error


def _create(layout: Layout) -> None:
    import json

    key = ECKey.generate_key("P-256", {"use": "sig", "alg": "ES256"}, auto_kid=True)
    layout.keys.mkdir(parents=True, exist_ok=True, mode=0o700)
    layout.keys.chmod(0o700)
    public = json.dumps({"keys": [key.as_dict(private=False)]}).encode()
    write_atomically(layout.jwks, public, 0o600)
    write_atomically(layout.signing_key, key.as_pem(private=True), 0o600)
