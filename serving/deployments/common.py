"""Names and options that several deployments share. Not here: Ray."""

from __future__ import annotations

from typing import Any

from models.manifest import ModelVersion

APPLICATION = "holdfast"
MODEL_DEPLOYMENT = "Model"
GATEWAY_DEPLOYMENT = "Gateway"
HAPROXY_DEPLOYMENT = "Haproxy"
METADATA_ADDRESS = "holdfast_channel"
METADATA_NODE = "holdfast_node"
METADATA_IP = "holdfast_ip"
METADATA_PID = "holdfast_pid"

QUIET = {"log_level": "WARNING", "enable_access_log": False}

HEALTH_CHECKS: dict[str, Any] = {"health_check_period_s": 1, "health_check_timeout_s": 2}
"""Three checks in a row have to fail, so a process that says nothing at all is ended after six to seven seconds."""


def application_of(name: ModelVersion) -> str:
    """The Serve application of a version; versions are immutable, so the application is never updated."""
    return str(name)
