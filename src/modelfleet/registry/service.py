"""The registry of one namespace, with all its verbs."""

from __future__ import annotations

import re

from modelfleet.core.errors import InvalidInput, NotFound
from modelfleet.registry import store
from modelfleet.registry.adoption import AdoptionVerbs
from modelfleet.registry.collaboration.comments import CommentVerbs
from modelfleet.registry.collaboration.people import PeopleVerbs
from modelfleet.registry.collaboration.reviews import ReviewVerbs
from modelfleet.registry.listing import ListingVerbs
from modelfleet.registry.standing import StandingVerbs
from modelfleet.registry.versions import PREPARE

__all__ = ["PREPARE", "RegistryService"]

_NAMESPACE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")


class RegistryService(
    StandingVerbs, ListingVerbs, AdoptionVerbs, PeopleVerbs, CommentVerbs, ReviewVerbs
):
    """Every mutation is authorized and audited in its own transaction."""

    def within(self, namespace: str, *, create: bool = False) -> RegistryService:
        """The registry of another namespace. Raises `NotFound` unless it is to be created."""
        if not _NAMESPACE.fullmatch(namespace):
            raise InvalidInput(f"{namespace[:64]!r} can't name a namespace.")
        with self._database.read() as connection:
            found = store.find_namespace(connection, namespace)
        if found is None:
            if not create:
                raise NotFound(f"There is no namespace {namespace}.")
            with self._database.begin() as connection:
                found = store.find_namespace(connection, namespace) or store.add_namespace(
                    connection, namespace
                )
        return RegistryService(self._database, self._bundles, self._jobs, namespace, found)
