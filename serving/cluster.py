"""What has to be so before Ray starts: environment, ports, folders, the token. Checked first, told in one line each.

Not here: starting Ray (``serving.up``).
"""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Final

from serving.admin.token import open_to_others, read_token
from serving.incidents.redaction import load_redaction
from serving.settings import Settings, SettingsError

RAY_ENVIRONMENT: Final[Mapping[str, str]] = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_worker_niceness": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_kill_worker_timeout_milliseconds": "500",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_ENABLE_DIRECT_INGRESS": "0",
    "RAY_SERVE_ENABLE_HA_PROXY": "0",
    "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1",
    "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "60000",
}
"""Ray's own settings, which it reads from the environment when it starts. A value that is set already stays."""


UNFINISHED_RESTORE: Final = "restore-unfinished"
"""A file in the state folder: a restore was putting things in place, and hasn't come to its end."""


class StartError(Exception):
    """Something is in the way of starting. The text is one line for a person."""


def set_ray_environment() -> None:
    for name, value in RAY_ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def check_ports(settings: Settings) -> None:
    """Raises ``StartError`` unless the public port is free and enough gateway ports are."""
    http = settings.http
    if (error := bind_error(http.host, http.port)) is not None:
        raise StartError(f"http.port: can't listen on {http.host}:{http.port}: {error}")
    first, last = http.gateway_ports
    free = sum(bind_error(http.gateway_host, port) is None for port in range(first, last + 1))
    if free < settings.gateway.most_replicas:
        raise StartError(
            f"http.gateway_ports: only {free} of {first}-{last} are free for {settings.gateway.most_replicas} gateways"
        )


def check_token(settings: Settings) -> str | None:
    """What is to be said of the token's file, if anything; raises ``StartError`` if it holds no usable token."""
    if settings.admin_token_file is None:
        return None
    path = Path(settings.admin_token_file)
    try:
        read_token(path)
    except SettingsError as error:
        raise StartError(str(error)) from None
    return (
        f"admin_token_file: every user of this machine may read {path}; chmod 600 it" if open_to_others(path) else None
    )


def check_restored(settings: Settings) -> None:
    """Raises ``StartError`` if what is there may be half of a backup, or can't be seen."""
    try:
        unfinished = (Path(settings.state_dir) / UNFINISHED_RESTORE).exists()
    except OSError as error:  # below a folder that may not be searched
        raise StartError(f"state_dir: {settings.state_dir}: {error.strerror}") from None
    if unfinished:
        raise StartError(
            f"state_dir: a restore into {settings.state_dir} was interrupted; "
            "give the command `holdfast restore` again, with --force"
        )


def check_redaction(settings: Settings) -> None:
    """Raises ``StartError`` if the function that says what may be kept of incidents can't be had."""
    if settings.incidents.redaction is not None:
        try:
            load_redaction(settings.incidents.redaction)
        except SettingsError as error:
            raise StartError(str(error)) from None


def bind_error(host: str, port: int) -> str | None:
    """Why nobody can listen there now; None if somebody can."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as error:
            return error.strerror or str(error)
    return None


def lock_state(settings: Settings) -> IO[str]:
    """Hold the state folder for this process; raises ``StartError`` if another Holdfast holds it."""
    folder = Path(settings.state_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
    except OSError as error:
        raise StartError(f"state_dir: {folder}: {error.strerror}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise StartError(f"state_dir: another Holdfast uses {folder}") from None
    return lock
