"""MLflow's REST protocol, so that stock MLflow clients are at home here.

`wrap(app, fleet)` puts it in front of the control plane. Each module has the routes of one family;
`routing` parses requests, finds the caller and the namespace, and gives errors MLflow's shape.
"""

from modelfleet.compat.mlflow.app import wrap

__all__ = ["wrap"]
