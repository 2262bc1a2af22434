"""Training in one namespace, with all its verbs."""

from __future__ import annotations

from modelfleet.registry.tracking import store
from modelfleet.registry.tracking.artifacts import ArtifactVerbs
from modelfleet.registry.tracking.experiments import ExperimentVerbs
from modelfleet.registry.tracking.histories import HistoryVerbs
from modelfleet.registry.tracking.logged_models import LoggedModelVerbs
from modelfleet.registry.tracking.measures import MeasureVerbs
from modelfleet.registry.tracking.model_search import ModelSearchVerbs
from modelfleet.registry.tracking.search import RunSearchVerbs


class TrackingService(
    ExperimentVerbs,
    MeasureVerbs,
    HistoryVerbs,
    RunSearchVerbs,
    LoggedModelVerbs,
    ModelSearchVerbs,
    ArtifactVerbs,
):
    """Every mutation is authorized; `base.Verbs` tells what is audited."""

    def within(self, namespace: str, namespace_id: str) -> TrackingService:
        """The same of another namespace, which has the experiment `Default` from now on."""
        with self._database.begin() as connection:
            store.ensure_experiment(connection, namespace_id, "Default")
        return TrackingService(self._database, self._bundles, namespace, namespace_id)
