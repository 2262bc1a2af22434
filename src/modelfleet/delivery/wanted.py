"""Documents as they come, typed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from modelfleet.core.errors import InvalidInput
from modelfleet.delivery.objects import Key
from modelfleet.fleetfile.documents import KINDS, ModelDocument, PipelineDocument


@dataclass(frozen=True)
class Wanted:
    """A document as it came, typed."""

    document: ModelDocument | PipelineDocument
    plain: Mapping[str, Any]

    @property
    def key(self) -> Key:
        return self.document.kind, self.document.metadata.name

    @property
    def place(self) -> str:
        """Its endpoint."""
        return place_of(self.plain)

    @property
    def needs_place(self) -> bool:
        return any(key in self.plain for key in ("source", "endpoint")) or "timeout" in (
            self.plain.get("serve", {})
        )


def place_of(plain: Mapping[str, Any]) -> str:
    """The endpoint of a document in plain values."""
    return str(plain.get("endpoint", {}).get("name") or plain["metadata"]["name"])


def read(document: object) -> Wanted:
    """Raises `InvalidInput`: a client checks documents before it sends them."""
    kind = document.get("kind") if isinstance(document, dict) else None
    if not isinstance(document, dict) or kind not in ("Model", "Pipeline"):
        raise InvalidInput("A document is a mapping with kind: Model or Pipeline.")
    try:
        json.dumps(document, ensure_ascii=False, allow_nan=False).encode()
        made = KINDS[kind].model_validate(document)
    except (ValidationError, RecursionError, ValueError) as error:
        first: Mapping[str, Any] = {}
        if isinstance(error, ValidationError):
            first = error.errors()[0]
        where = ".".join(str(part) for part in first.get("loc", ()))
        raise InvalidInput(f"{kind}: {where}: {first.get('msg', error)}") from error
    assert isinstance(made, (ModelDocument, PipelineDocument))
    plain = made.model_dump(
        mode="json", by_alias=True, exclude_unset=True, exclude_none=True, exclude={"stages"}
    )
    return Wanted(made, plain)
