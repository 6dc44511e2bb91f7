"""The composition root: ``serve_config.yaml`` names ``serving.app:build``.

Not here: the parts (``serving.deployments``), starting Ray (``serving.cli``).
"""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from serving.autoscaling import scaling
from serving.cluster import check_redaction, check_restored, check_token
from serving.deployments.common import APPLICATION, GATEWAY_DEPLOYMENT, HAPROXY_DEPLOYMENT, HEALTH_CHECKS, QUIET
from serving.deployments.control import ControlReplica
from serving.deployments.deployer import application_status, reason_in
from serving.deployments.gateway import GatewayReplica
from serving.deployments.haproxy import HaproxyReplica
from serving.deployments.nodes import ON_HEAD
from serving.deployments.run import new_run
from serving.settings import Settings, absolute, parse_settings


def build(args: dict[str, Any]) -> Any:
    """The Serve application of these settings. Raises ``SettingsError``, or ``StartError`` if it mustn't start so."""
    settings = absolute(parse_settings(args), Path.cwd())
    check_token(settings)
    check_restored(settings)
    check_redaction(settings)
    return build_from(settings)


def start_ray() -> None:
    """A Ray of this process's own, on this machine; ``serving.cluster.set_ray_environment`` goes before."""
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)


def stop_ray() -> None:
    """End the gateways, which finish what they have, and then everything else."""
    if ray.is_initialized():
        with contextlib.suppress(RayError, RayServeException):
            serve.delete(APPLICATION)
        ray.shutdown()


def deploy(settings: Settings) -> None:
    """Hand the application to Serve; returns before anything runs."""
    serve.start(proxy_location="Disabled")
    target = serve.RunTarget(build_from(settings), name=APPLICATION, route_prefix="/")
    serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)


def failure() -> str | None:
    """Why the application can't come up, if Serve has given it up."""
    found = application_status(APPLICATION)
    return reason_in(found.message) if found.state == "DEPLOY_FAILED" else None


def build_from(settings: Settings) -> Any:
    """Every deployment of an application gets a folder of its own for what lives only as long as it does."""
    run = new_run(settings)
    drained_s = settings.http.drain_timeout_s + 5
    control: Any = serve.deployment(
        ControlReplica,
        name="Control",
        num_replicas=1,
        max_ongoing_requests=100,  # Serve's own 5 would let a few slow loads keep a rollout from being aborted
        **BESIDE_MODELS,
    )
    haproxy: Any = serve.deployment(
        HaproxyReplica,
        name=HAPROXY_DEPLOYMENT,
        num_replicas=1,
        max_ongoing_requests=100,  # replicas on other nodes bring their metrics
        max_replicas_per_node=1,
        graceful_shutdown_timeout_s=drained_s,
        **BESIDE_MODELS,
    )
    gateway: Any = serve.deployment(
        GatewayReplica,
        name=GATEWAY_DEPLOYMENT,
        max_ongoing_requests=10_000,
        graceful_shutdown_timeout_s=drained_s,
        **scaling(settings.gateway.replicas, settings.gateway.autoscaling),
        **BESIDE_MODELS,
    )
    return gateway.bind(settings, run, control.bind(settings, run), haproxy.bind(settings, run))


BESIDE_MODELS: dict[str, Any] = {
    **HEALTH_CHECKS,
    "graceful_shutdown_wait_loop_s": 0.1,
    "logging_config": QUIET,
    "ray_actor_options": {"num_cpus": 0, "resources": dict(ON_HEAD)},
}
"""What holds for all that isn't a model. Ray's CPU count is for placing models; these run beside them on the head node,
where the files are that they share."""
