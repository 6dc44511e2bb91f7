"""Asks a running Holdfast over its admin API, as the commands do.

Not here: what the answers look like to people (``serving.commands.screen``, ``serving.commands.lines``).
"""

from __future__ import annotations

import contextlib
import http.client
import json
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar
from urllib.parse import quote

import msgspec
from msgspec.structs import replace

from serving.admin.token import authorization
from serving.settings import Settings, SettingsError

T = TypeVar("T")

ROLLOUTS: Final = "/v2/holdfast/rollouts"
INCIDENTS: Final = "/v2/holdfast/incidents"
ASK_TIMEOUT_S: Final = 20.0


class CommandFailed(Exception):
    """What was asked for isn't so. The text is for a person."""


class NobodyAnswers(CommandFailed):
    """No Holdfast is there, or not now."""


class Refused(CommandFailed):
    """Holdfast says no; ``status`` is HTTP's."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status

    @property
    def passing(self) -> bool:
        """Whether it may be otherwise in a moment: nobody was there to answer."""
        return self.status >= 500


class Answer(NamedTuple):
    """A response; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class Holdfast:
    """The system that runs where the settings say. ``token_file`` counts before the settings' own.

    ``gateway`` is the port of one that is to be asked itself, past HAProxy.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        token_file: Path | None = None,
        timeout_s: float = ASK_TIMEOUT_S,
        gateway: int | None = None,
    ) -> None:
        self._host = host_to_ask(settings) if gateway is None else this_machine(settings.http.gateway_host)
        self._port = settings.http.port if gateway is None else gateway
        self._settings = settings
        self._token_file = token_file
        self._timeout_s = timeout_s

    def get(self, path: str) -> bytes:
        """The body of the answer. Raises ``NobodyAnswers`` or ``Refused``."""
        return self._ask("GET", path, None, {})

    def get_private(self, path: str) -> bytes:
        """As ``get``, with the token if there is one: what callers sent isn't shown to everyone."""
        return self._ask("GET", path, None, admin_headers(self._settings, self._token_file))

    def send(self, path: str, body: bytes, headers: dict[str, str]) -> Answer:
        """Whatever is answered to these bytes. Raises ``NobodyAnswers``."""
        return self._exchange("POST", path, body, headers)

    def post(self, path: str, body: dict[str, Any]) -> bytes:
        """Change something, with the token if there is one. Raises ``CommandFailed``."""
        headers = {"content-type": "application/json", **admin_headers(self._settings, self._token_file)}
        return self._ask("POST", path, json.dumps(body).encode(), headers)

    def _ask(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> bytes:
        status, _, answer = self._exchange(method, path, body, headers)
        if status >= 400:
            reason = reason_of(status, answer)
            if status == HTTPStatus.UNAUTHORIZED and "authorization" not in headers:
                reason += "; --token-file names a file with the token, or admin_token_file in the settings (-c)"
            raise Refused(status, reason)
        return answer

    def _exchange(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Answer:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=self._timeout_s)
        try:
            with contextlib.closing(connection):
                connection.request(method, path, body, headers)
                response = connection.getresponse()
                found = {name.lower(): value for name, value in response.getheaders()}
                return Answer(response.status, found, response.read())
        except (OSError, http.client.HTTPException) as error:
            where = f"{self._host}:{self._port}"
            raise NobodyAnswers(
                f"nobody answers as Holdfast at {where}: {str(error) or type(error).__name__}"
            ) from None


def host_to_ask(settings: Settings) -> str:
    """Whoever listens on all addresses is asked on this machine's own."""
    return this_machine(settings.http.host)


def this_machine(host: str) -> str:
    """The address at which this machine reaches whoever listens at ``host``."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def rollout_path(model: str, rest: str = "") -> str:
    """Where a model's rollout is, or something of it."""
    return f"{ROLLOUTS}/{quote(model, safe='')}{rest}"


def decoded(answer: bytes, kind: type[T]) -> T:
    """Raises ``CommandFailed`` for what isn't of that kind: a Holdfast of another time, or none at all."""
    try:
        return msgspec.json.decode(answer, type=kind)
    except (ValueError, RecursionError) as error:
        raise CommandFailed(f"the answer isn't one that this command understands: {error}") from None


def admin_headers(settings: Settings, token_file: Path | None) -> dict[str, str]:
    """What proves to the admin API that we may change the system; empty without a token. Raises ``CommandFailed``."""
    named = settings if token_file is None else replace(settings, admin_token_file=str(token_file))
    try:
        return authorization(named)
    except SettingsError as error:
        raise CommandFailed(str(error)) from None


def reason_of(status: int, answer: bytes) -> str:
    """What the refusal says, or what can be said of one that says nothing, as HAProxy's own."""
    with contextlib.suppress(ValueError, RecursionError):
        document = json.loads(answer)
        if isinstance(document, dict) and isinstance(document.get("error"), str):
            return str(document["error"])
    what = "no gateway is there to answer" if status in (502, 503, 504) else "without a reason"
    return f"refused with {status}: {what}"
