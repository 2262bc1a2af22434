"""What tests of the ground floor share."""

from __future__ import annotations

import pytest

from modelfleet.core.database import Database
from modelfleet.core.keys import SigningKey
from modelfleet.core.layout import Layout
from modelfleet.identity import IdentityService


@pytest.fixture
def fleet_identity(database: Database, layout: Layout) -> IdentityService:
    return IdentityService(database, SigningKey(layout))
