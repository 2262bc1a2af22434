"""Is production still like training? Judges closed windows and keeps alerts.

Verbs: `MonitoringService.run_due`, `run_window`, `check_limits`, `check_overload`, `list_alerts`,
`get_alert`, `acknowledge`, `resolve`, `drift`. The tests themselves are pure: `drift`, `fdr`,
`alerts`.
"""

from modelfleet.monitoring.service import MonitoringService
from modelfleet.monitoring.types import AlertInfo, DriftResult, FeatureTest, LiveVersion

__all__ = ["AlertInfo", "DriftResult", "FeatureTest", "LiveVersion", "MonitoringService"]
