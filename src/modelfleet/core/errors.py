"""The error hierarchy. An error's docstring is its default message.

    FleetError (500)
    ├── InvalidInput (400)       the caller sent something that can't be right
    ├── Unauthenticated (401)    nobody knows who is calling
    ├── NotAllowed (403)         somebody we know may not do this
    ├── NotFound (404)
    ├── Conflict (409)           the state of things forbids it
    │   ├── Referenced (409)     something still uses it
    │   └── WrongState (409)     deleted or frozen things, for example, do not change
    ├── TooLarge (413)
    └── Unavailable (503)        a part that is needed is not there (yet)

`slug` is the stable `type` of the problem+json body; `hint` says what to do about it.
"""

from __future__ import annotations

from typing import ClassVar


class FleetError(Exception):
    """Something went wrong inside modelfleet."""

    status: ClassVar[int] = 500
    slug: ClassVar[str] = "internal"
    exit_code: ClassVar[int] = 70

    def __init__(self, message: str = "", *, hint: str = "", **fields: object) -> None:
        self.message = message or (type(self).__doc__ or "").strip().splitlines()[0]
        self.hint = hint
        self.fields = fields
        super().__init__(self.message)

    def problem(self) -> dict[str, object]:
        """The RFC 9457 body of this error."""
        body: dict[str, object] = {
            "type": f"urn:modelfleet:problem:{self.slug}",
            "title": (type(self).__doc__ or self.slug).strip().splitlines()[0],
            "status": self.status,
            "detail": self.message,
        }
        if self.hint:
            body["hint"] = self.hint
        return body | self.fields


class InvalidInput(FleetError):
    """The input is not valid."""

    status = 400
    slug = "invalid-input"
    exit_code = 2


class Unauthenticated(FleetError):
    """No valid credentials were given."""

    status = 401
    slug = "unauthenticated"
    exit_code = 4


class NotAllowed(FleetError):
    """This principal may not do that."""

    status = 403
    slug = "not-allowed"
    exit_code = 4


class NotFound(FleetError):
    """There is no such thing."""

    status = 404
    slug = "not-found"
    exit_code = 5


class Conflict(FleetError):
    """The present state forbids this."""

    status = 409
    slug = "conflict"
    exit_code = 5


class Referenced(Conflict):
    """Something still refers to this, so it can't be deleted."""

    slug = "referenced"


class WrongState(Conflict):
    """This is in a state that forbids it."""

    slug = "wrong-state"


class TooLarge(FleetError):
    """The content is too large."""

    status = 413
    slug = "too-large"
    exit_code = 2


class Unavailable(FleetError):
    """A part that is needed for this is not available."""

    status = 503
    slug = "unavailable"
    exit_code = 3
