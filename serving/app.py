"""The composition root: ``serve_config.yaml`` names ``serving.app:build``.

Not here: the parts (``serving.deployments``), starting Ray (``serving.cli``).
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from serving.autoscaling import scaling
from serving.cluster import StartError, check_redaction, check_restored, check_token
from serving.deployments.common import (
    APPLICATION,
    GATEWAY_DEPLOYMENT,
    HAPROXY_DEPLOYMENT,
    HEALTH_CHECKS,
    MODEL_DEPLOYMENT,
    QUIET,
)
from serving.deployments.control import ControlReplica
from serving.deployments.deployer import application_status, reason_in
from serving.deployments.gateway import GatewayReplica
from serving.deployments.haproxy import HaproxyReplica
from serving.deployments.nodes import ON_HEAD, this_node
from serving.deployments.run import new_run
from serving.settings import Settings, absolute, parse_settings

END_MODELS_S: Final = 30.0


def build(args: dict[str, Any]) -> Any:
    """The Serve application of these settings. Raises ``SettingsError``, or ``StartError`` if it mustn't start so."""
    if ray.is_initialized() and not (node := this_node()).head:
        raise StartError(f"{node.ip} isn't the head node of the cluster, where Holdfast's files have to be")
    settings = absolute(parse_settings(args), Path.cwd())
    check_token(settings)
    check_restored(settings)
    check_redaction(settings)
    return build_from(settings)


def start_ray() -> None:
    """A Ray of this process's own, on this machine; ``serving.cluster.set_ray_environment`` goes before."""
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)


def join_ray(settings: Settings, address: str) -> bool:
    """Join the Ray cluster at ``address``; whether applications had to be ended that an earlier run left there.

    Raises ``StartError``, joined to nothing, if there is no such cluster, this isn't its head node, or another Holdfast
    runs on it.
    """
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError, RayError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise StartError(f"ray_address: no Ray cluster can be joined at {address}: {reason}") from None
    try:
        return _take_over(settings, address)
    except StartError:
        ray.shutdown()
        raise


def _take_over(settings: Settings, address: str) -> bool:
    node = this_node()
    if not node.head:
        raise StartError(
            f"ray_address: this machine ({node.ip}) isn't the head node of the cluster at {address}; "
            "`holdfast up` has to run there"
        )
    found = APPLICATION in serve.status().applications
    mark = _joined_path(settings)
    if found and not (mark.exists() and mark.read_text(encoding="ascii") == node.id):
        raise StartError(
            f"ray_address: an application {APPLICATION} runs on the cluster at {address} already, and not from "
            f"{settings.state_dir}"
        )
    mark.write_text(node.id, encoding="ascii")
    if found:
        _end_applications()
    return found


def _joined_path(settings: Settings) -> Path:
    """Names the head node of the cluster that the one who holds the state folder has deployed to."""
    return Path(settings.state_dir) / "joined"


def stop_ray() -> None:
    """End the gateways, which finish what they have, and then everything else of this process's own Ray."""
    if ray.is_initialized():
        with contextlib.suppress(RayError, RayServeException):
            serve.delete(APPLICATION)
        ray.shutdown()


def leave_ray(settings: Settings) -> None:
    """End this Holdfast's applications, the gateways first; the cluster and whatever else it runs go on."""
    if ray.is_initialized():
        with contextlib.suppress(RayError, RayServeException):
            _end_applications()
            _joined_path(settings).unlink(missing_ok=True)
        ray.shutdown()


def _end_applications() -> None:
    """The gateways finish what they have before the models go. Models that don't go in time are logged by Serve."""
    with contextlib.suppress(RayServeException):
        serve.delete(APPLICATION)
    models = own_models(serve.status().applications)
    for name in models:
        serve.delete(name, _blocking=False)
    until = time.monotonic() + END_MODELS_S
    while not models.isdisjoint(serve.status().applications) and time.monotonic() < until:
        time.sleep(0.1)


def own_models(applications: Mapping[str, Any]) -> set[str]:
    """Which of Serve's applications are versions of models of a Holdfast."""
    return {
        name for name, found in applications.items() if "@" in name and set(found.deployments) == {MODEL_DEPLOYMENT}
    }


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
