"""A tracking service, and one of another namespace in the same database."""

from __future__ import annotations

import pytest

from modelfleet.registry.tracking.service import TrackingService
from modelfleet.wiring import Fleet


@pytest.fixture
def tracking(fleet: Fleet) -> TrackingService:
    return fleet.tracking


@pytest.fixture
def elsewhere(fleet: Fleet) -> TrackingService:
    other = fleet.registry.within("other", create=True)
    return fleet.tracking.within("other", other.namespace_id)
