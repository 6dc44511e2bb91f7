"""The composition root: ``serve_config.yaml`` names ``serving.app:build``.

Not here: the parts (``serving.deployments``), starting Ray (``serving.cli``).
"""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

from ray import serve

from serving.deployments import GATEWAY_DEPLOYMENT, QUIET, ControlReplica, GatewayReplica, HaproxyReplica
from serving.settings import Settings, absolute, parse_settings


def build(args: dict[str, Any]) -> Any:
    """The Serve application of these settings. Raises ``SettingsError``."""
    return build_from(absolute(parse_settings(args), Path.cwd()))


def build_from(settings: Settings) -> Any:
    """Every deployment of an application gets a folder of its own for what lives only as long as it does."""
    run_dir = str(Path(settings.state_dir) / "run" / uuid.uuid4().hex[:8])
    control = serve.deployment(
        ControlReplica,
        name="Control",
        num_replicas=1,
        health_check_period_s=1,
        graceful_shutdown_wait_loop_s=0.1,
        logging_config=QUIET,
        ray_actor_options=NO_CPUS,
    )
    haproxy = serve.deployment(
        HaproxyReplica,
        name="Haproxy",
        num_replicas=1,
        max_replicas_per_node=1,
        health_check_period_s=1,
        graceful_shutdown_wait_loop_s=0.1,
        graceful_shutdown_timeout_s=settings.http.drain_timeout_s + 5,
        logging_config=QUIET,
        ray_actor_options=NO_CPUS,
    )
    gateway = serve.deployment(
        GatewayReplica,
        name=GATEWAY_DEPLOYMENT,
        num_replicas=settings.gateway.replicas,
        max_ongoing_requests=10_000,
        health_check_period_s=1,
        health_check_timeout_s=3,
        graceful_shutdown_wait_loop_s=0.1,
        graceful_shutdown_timeout_s=settings.http.drain_timeout_s + 5,
        logging_config=QUIET,
        ray_actor_options=NO_CPUS,
    )
    return gateway.bind(settings, run_dir, control.bind(settings, run_dir), haproxy.bind(settings, run_dir))


NO_CPUS: dict[str, Any] = {"num_cpus": 0}
"""Ray's CPU count is for placing models; these processes run beside them on every node."""
