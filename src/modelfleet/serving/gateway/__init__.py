"""The gateway: Envoy, told by files what to route.

`GatewayFiles.bootstrap` prepares a start, `write` publishes routes and clusters, `acknowledged`
says which revision Envoy runs, `tidy` drops clusters that nothing routes to any more. Everything
else in here is pure rendering: `GatewayConfig` in, Envoy's own JSON out.
"""

from modelfleet.serving.gateway.bootstrap import command, envoy_binary, successor
from modelfleet.serving.gateway.config import (
    EndpointRoutes,
    GatewayConfig,
    PoolAddress,
    RateLimit,
    Rule,
    Shadow,
    Sticky,
    Target,
)
from modelfleet.serving.gateway.decide import Asked, Decision
from modelfleet.serving.gateway.explain import Explanation
from modelfleet.serving.gateway.files import GatewayFiles, GatewayStatistics
from modelfleet.serving.gateway.listener import Limits
from modelfleet.serving.gateway.overload import Capacity
from modelfleet.serving.gateway.shed import FairShare

__all__ = [
    "Asked",
    "Capacity",
    "Decision",
    "EndpointRoutes",
    "Explanation",
    "FairShare",
    "GatewayConfig",
    "GatewayFiles",
    "GatewayStatistics",
    "Limits",
    "PoolAddress",
    "RateLimit",
    "Rule",
    "Shadow",
    "Sticky",
    "Target",
    "command",
    "envoy_binary",
    "successor",
]
