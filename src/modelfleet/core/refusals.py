"""Why the gateway itself refuses a request: the words that gateway, collector and pages share.

A worker's own errors are not among them: those are in the prediction records.
"""

from __future__ import annotations

from enum import StrEnum

HEADER = "x-mf-refused"
"""of a 429: which of the gateway's limits it was"""
SCOPE = "modelfleet"
COUNTER = "refused"
"""Envoy's counter `modelfleet.refused`, with labels"""


class Reason(StrEnum):
    OVERLOAD = "overload"
    """beyond the caller's fair share of what the model can answer"""
    RATE_LIMIT = "rate-limit"
    """beyond the endpoint's `rate_limit` of each caller"""
    KEY_MISSING = "key-missing"
    KEY_EXPIRED = "key-expired"
    KEY_INVALID = "key-invalid"
    """no key of this platform, or not readable"""
    NOT_ALLOWED = "not-allowed"
    """the key does not name the endpoint or the action, or it was revoked"""
    NOT_FOUND = "not-found"
    """no such endpoint, version or method"""
    MALFORMED = "malformed"
    TOO_LARGE = "too-large"
    """body or headers"""
    SLOW_CLIENT = "slow-client"
    """the request did not arrive in time"""
    NO_WORKER = "no-worker"
    """no worker could be reached, after all retries"""
    TIMEOUT = "timeout"
    """no answer within the endpoint's `timeout_ms`"""
    GATEWAY_FULL = "gateway-full"
    """the gateway's own memory runs out"""
    OTHER = "other"
