"""Who may change the system: whoever has the token; without one, whoever can reach it from this machine. Pure.

A browser must not be made to change it by a page of somewhere else, so a request that names its origin is refused
unless that is ours. Not here: where the token comes from (``serving.admin.token``), what may be changed
(``serving.admin.routes``).
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Final

from serving.errors import ForeignOrigin, NotAuthorized, UnknownRoute
from serving.ingress.http import HttpRequest
from serving.settings import LOOPBACK, Settings

MISSING: Final = "missing"
WRONG: Final = "wrong"
UNUSABLE: Final = "unusable"
ORIGIN: Final = "origin"
REASONS: Final = (MISSING, WRONG, UNUSABLE, ORIGIN)
"""Why a request is refused, as the metrics say it."""


class Guard:
    """``token`` gives the token of now, empty if its file is unusable; it is None if the settings name no file.

    ``count`` is told the reason of every refusal.
    """

    def __init__(self, settings: Settings, *, token: Callable[[], bytes] | None, count: Callable[[str], None]) -> None:
        self._closed = None if settings.admin_allowed else why_closed(settings)
        self._token = token
        self._count = count

    def check_open(self) -> None:
        """Raises ``UnknownRoute`` if nothing may be changed here by anyone; the text says which setting that is."""
        if self._closed is not None:
            raise UnknownRoute(self._closed)

    def check_private(self, request: HttpRequest) -> None:
        """The same for what shows callers' data: whoever may change the system may see it, and nobody else.

        A page of somewhere else may read what it gets from a name that it has made lead here, and names no origin
        then: so without a token the name has to be ours.
        """
        if self._closed is not None:
            raise UnknownRoute(
                f"incidents hold what callers sent, and are shown to those who may change the system; {self._closed}"
            )
        host = request.headers.get(b"host", b"").strip().lower()
        if self._token is None and _name(host) not in LOOPBACK:
            self._count(ORIGIN)
            raise ForeignOrigin(_foreign_host(host))
        self.check(request, "this shows what callers sent")

    def check(self, request: HttpRequest, what: str = "this changes the system") -> None:
        """Raises ``ForeignOrigin`` or ``NotAuthorized`` unless who sent the request may change the system."""
        origin = request.headers.get(b"origin")
        if origin is not None:
            self._check_origin(origin, request.headers.get(b"host", b""))
        if self._token is not None:
            self._check_token(self._token(), request.headers.get(b"authorization", b""), what)

    def _check_origin(self, origin: bytes, host: bytes) -> None:
        scheme, _, site = origin.strip().lower().partition(b"://")
        host = host.strip().lower()
        if not scheme or not host or site != host:
            self._count(ORIGIN)
            raise ForeignOrigin(
                f"header Origin: a page of '{_shown(origin)}' may not change what runs at '{_shown(host)}'"
            )
        if self._token is None and _name(host) not in LOOPBACK:  # another's name that leads here is no proof
            self._count(ORIGIN)
            raise ForeignOrigin(_foreign_host(host))

    def _check_token(self, token: bytes, authorization: bytes, what: str) -> None:
        scheme, _, given = authorization.strip().partition(b" ")
        if scheme.lower() != b"bearer":
            self._count(MISSING)
            raise NotAuthorized(f"{what}: it needs the header `Authorization: Bearer <token>`")
        if not token:
            self._count(UNUSABLE)
            raise NotAuthorized("the token's file (setting `admin_token_file`) can't be used now; the log says why")
        if not hmac.compare_digest(given.strip(), token):
            self._count(WRONG)
            raise NotAuthorized("header Authorization: this isn't the token")


def why_closed(settings: Settings) -> str:
    """For the caller: what to set, so that the system can be changed over HTTP."""
    if settings.admin is False:
        return "changing the system over HTTP is switched off here (setting `admin`)"
    return (
        "changing the system over HTTP is switched off here, because others than this machine can reach it: "
        "name a file with a token (setting `admin_token_file`)"
    )


def _foreign_host(host: bytes) -> str:
    return (
        f"header Host: without a token (setting `admin_token_file`) a browser may change the system only "
        f"at {' or '.join(LOOPBACK)}, not at '{_shown(host)}'"
    )


def _name(host: bytes) -> str:
    """The name or address in a Host header."""
    name, _, port = host.decode("latin-1").rpartition(":")
    return (name if name and port.isdecimal() else host.decode("latin-1")).strip("[]")


def _shown(raw: bytes) -> str:
    return raw[:64].decode("latin-1")
