"""How many replicas a deployment has, as Serve wants to be told.

Not here: how many it needs (``serving.rollout.scaling``), and what the figure is made of (``serving.deployments``).
"""

from __future__ import annotations

from typing import Any, Final

from serving.model_settings import AutoscalingSettings
from serving.rollout import scaling as policy
from serving.rollout.scaling import DEMAND

__all__ = ["DEMAND", "scaling"]

SAMPLE_S: Final = 0.5
AVERAGE_OVER_S: Final = 2.0


def scaling(replicas: int, autoscaling: AutoscalingSettings | None) -> dict[str, Any]:
    """Options of a deployment: a fixed number of replicas, or as many as the work needs."""
    if autoscaling is None:
        return {"num_replicas": replicas}
    return {
        "autoscaling_config": {
            "min_replicas": autoscaling.min_replicas,
            "max_replicas": autoscaling.max_replicas,
            "initial_replicas": min(max(replicas, autoscaling.min_replicas), autoscaling.max_replicas),
            "target_ongoing_requests": autoscaling.target_inflight,
            "upscale_delay_s": autoscaling.upscale_delay_s,
            "downscale_delay_s": autoscaling.downscale_delay_s,
            "metrics_interval_s": SAMPLE_S,
            "look_back_period_s": AVERAGE_OVER_S,
            "policy": {"policy_function": f"{policy.__name__}:policy"},
        }
    }
