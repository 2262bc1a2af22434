"""Principals for tests."""

from __future__ import annotations

from modelfleet.core.authorization import Grant, Principal, Role

ADMIN = Principal("admin-id", "ada", (Grant(Role.ADMIN),))
NOBODY = Principal("nobody-id", "nemo")


def principal(role: Role, team: str = "*") -> Principal:
    return Principal(f"{role}-{team}", f"{role} of {team}", (Grant(role, team),))
