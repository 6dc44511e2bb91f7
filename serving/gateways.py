"""``holdfast gateways restart``: asks a running Holdfast to restart its gateways, and waits for the end of it.

Not here: restarting them (``serving.rollout.restart``).
"""

from __future__ import annotations

import contextlib
import http.client
import json
import time
from typing import Any, Final

from serving.admin.token import authorization
from serving.commands.asking import host_to_ask
from serving.settings import Settings, SettingsError

POLL_S: Final = 0.5
ASK_TIMEOUT_S: Final = 20.0


class RestartFailed(Exception):
    """Not every gateway was replaced. The text is one line for a person."""


def restart(settings: Settings, *, timeout_s: float) -> str:
    """What was done, once every gateway is replaced. Raises ``RestartFailed``."""
    status, progress = _ask(settings, "POST", "/v2/holdfast/gateways/restart")
    if status != 202:
        raise RestartFailed(f"refused with {status}: {progress.get('error', 'no reason given')}")
    until = time.monotonic() + timeout_s
    while progress["state"] == "running" and time.monotonic() < until:
        time.sleep(POLL_S)
        status, answer = _ask(settings, "GET", "/v2/holdfast/gateways")
        if status == 200:  # else the control plane is away for a moment
            progress = answer["restart"]
    if progress["state"] == "done":
        return f"restarted {len(progress['restarted'])} gateways"
    reason = progress["reason"] or f"still {progress['state']} after {timeout_s:g} s"
    raise RestartFailed(f"restarted {len(progress['restarted'])} gateways, then: {reason}")


def _ask(settings: Settings, method: str, path: str) -> tuple[int, dict[str, Any]]:
    headers = {}
    if method != "GET":
        try:
            headers = authorization(settings)
        except SettingsError as error:
            raise RestartFailed(str(error)) from None
    host = host_to_ask(settings)
    connection = http.client.HTTPConnection(host, settings.http.port, timeout=ASK_TIMEOUT_S)
    try:
        with contextlib.closing(connection):
            connection.request(method, path, headers=headers)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise RestartFailed(f"nobody answers as Holdfast at {host}:{settings.http.port}: {error}") from None
