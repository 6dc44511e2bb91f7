"""Every endpoint that changes the system, and those that tell how its changes stand.

Whatever isn't a GET passes the guard, before its body is looked at. The control plane does the work, and is asked
through a handle; nothing here decides. Not here: who may (``serving.admin.guard``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import Final, Protocol

import msgspec

from serving.admin.bodies import CloseBreaker, CommandRollout, StartRollout, read_page, read_wanted
from serving.admin.guard import Guard
from serving.errors import IncidentNotFound, IncidentsUnavailable, UnknownRoute
from serving.incidents.store import IncidentStore, StoreUnreadable
from serving.ingress.bodies import plain_body, read_body
from serving.ingress.faults import FaultsOnDemand
from serving.ingress.http import HttpRequest, HttpResponse, json_response
from serving.ingress.routes import GET, POST, Target

MODEL_MAX_CHARACTERS: Final = 128
INCIDENT_DIGITS_MAX: Final = 18
COMMANDS: Final = ("pause", "resume", "promote", "abort", "rollback")

FIXED: Final[dict[str, Target]] = {
    "/v2/holdfast/faults": Target("faults", (*GET, "POST", "DELETE")),
    "/v2/holdfast/gateways": Target("gateways", GET),
    "/v2/holdfast/gateways/restart": Target("restart_gateways", POST),
    "/v2/holdfast/incidents": Target("incidents", GET),
    "/v2/holdfast/rollouts": Target("rollouts", (*GET, "POST")),
}
REPOSITORY: Final = "/v2/repository/models/"
OF_REPOSITORY: Final[dict[str, Target]] = {"load": Target("load", POST), "unload": Target("unload", POST)}
INCIDENTS: Final = "/v2/holdfast/incidents/"
OF_INCIDENT: Final = Target("incident", GET)
PRIVATE: Final = frozenset({"incidents", "incident"})
"""Endpoints that show what callers sent: not everyone may look at them."""
ROLLOUTS: Final = "/v2/holdfast/rollouts/"
OF_ROLLOUT: Final[dict[str, Target]] = {
    "": Target("rollout", GET),
    "history": Target("history", GET),
    **{command: Target(command, POST) for command in COMMANDS},
}
BREAKERS: Final = "/v2/holdfast/breakers/"
CLOSE: Final = Target("close_breaker", POST)


class Control(Protocol):
    """The control plane, seen from here. What is bytes is JSON. Raises what ``serving.errors`` has for commands."""

    async def load(self, model: str, body: bytes) -> None: ...

    async def unload(self, model: str, body: bytes) -> None: ...

    async def restart_gateways(self) -> bytes:
        """Begin to replace them one after the other; how far that is."""
        ...

    async def gateways(self) -> bytes:
        """Those that accept requests, and how far a restart of them is."""
        ...

    async def close_breaker(self, model: str, version: str, body: bytes) -> bytes:
        """``body`` is a ``CloseBreaker``; the answer says of how many gateways."""
        ...

    async def rollouts(self) -> bytes: ...

    async def rollout(self, model: str) -> bytes: ...

    async def start_rollout(self, body: bytes) -> bytes:
        """``body`` is a ``StartRollout``."""
        ...

    async def command_rollout(self, model: str, command: str, body: bytes) -> bytes:
        """``command`` is one of ``COMMANDS``, ``body`` a ``CommandRollout``."""
        ...

    async def rollout_history(self, model: str, after: int, limit: int) -> bytes: ...


class AdminRoutes:
    """A ``serving.ingress.routes.Door``."""

    def __init__(
        self,
        control: Control,
        faults: FaultsOnDemand,
        guard: Guard,
        *,
        body_max_bytes: int,
        incidents: IncidentStore | None = None,
    ) -> None:
        self._control = control
        self._faults = faults
        self._guard = guard
        self._incident_store = incidents
        self._body_max_bytes = body_max_bytes
        self._endpoints: dict[str, Callable[[HttpRequest, Target], Awaitable[HttpResponse]]] = {
            "load": self._load,
            "unload": self._unload,
            "faults": self._on_demand,
            "gateways": self._gateways,
            "restart_gateways": self._restart_gateways,
            "close_breaker": self._close_breaker,
            "rollouts": self._rollouts,
            "rollout": self._rollout,
            "history": self._history,
            "incidents": self._incidents,
            "incident": self._incident,
            **dict.fromkeys(COMMANDS, self._command),
        }

    @property
    def endpoints(self) -> Collection[str]:
        return self._endpoints.keys()

    def find(self, path: str) -> Target | None:
        return find_target(path)

    async def answer(self, request: HttpRequest, target: Target) -> HttpResponse:
        if request.method not in GET:
            if target.endpoint != "faults":  # they have a setting of their own
                self._guard.check_open()
            self._guard.check(request)
        elif target.endpoint in PRIVATE:
            self._guard.check_private(request)
        return await self._endpoints[target.endpoint](request, target)

    async def _load(self, request: HttpRequest, target: Target) -> HttpResponse:
        await self._control.load(target.model, self._plain(request))
        return HttpResponse(200, [], b"")

    async def _unload(self, request: HttpRequest, target: Target) -> HttpResponse:
        await self._control.unload(target.model, self._plain(request))
        return HttpResponse(200, [], b"")

    async def _on_demand(self, request: HttpRequest, _target: Target) -> HttpResponse:
        return await self._faults.answer(request.method, self._plain(request))

    async def _gateways(self, _request: HttpRequest, _target: Target) -> HttpResponse:
        return json_response(await self._control.gateways())

    async def _restart_gateways(self, _request: HttpRequest, _target: Target) -> HttpResponse:
        return json_response(await self._control.restart_gateways(), 202)

    async def _close_breaker(self, request: HttpRequest, target: Target) -> HttpResponse:
        body = self._plain(request)
        close = msgspec.json.encode(read_body(body, CloseBreaker) if body else CloseBreaker())
        return json_response(await self._control.close_breaker(target.model, target.version or "", close))

    async def _rollouts(self, request: HttpRequest, _target: Target) -> HttpResponse:
        if request.method in GET:
            return json_response(await self._control.rollouts())
        start = read_body(self._plain(request), StartRollout)
        return json_response(await self._control.start_rollout(msgspec.json.encode(start)), 201)

    async def _rollout(self, _request: HttpRequest, target: Target) -> HttpResponse:
        return json_response(await self._control.rollout(target.model))

    async def _history(self, request: HttpRequest, target: Target) -> HttpResponse:
        page = read_page(request.url)
        return json_response(await self._control.rollout_history(target.model, page.after, page.limit))

    async def _command(self, request: HttpRequest, target: Target) -> HttpResponse:
        command = msgspec.json.encode(read_body(self._plain(request), CommandRollout))
        return json_response(await self._control.command_rollout(target.model, target.endpoint, command))

    async def _incidents(self, request: HttpRequest, _target: Target) -> HttpResponse:
        wanted = read_wanted(request.url)
        try:
            page = await asyncio.to_thread(self._store().page, wanted)
        except StoreUnreadable as error:
            raise IncidentsUnavailable(str(error)) from None
        return json_response(msgspec.json.encode(page))

    async def _incident(self, _request: HttpRequest, target: Target) -> HttpResponse:
        try:
            found = await asyncio.to_thread(self._store().get, int(target.model))
        except StoreUnreadable as error:
            raise IncidentsUnavailable(str(error)) from None
        if found is None:
            raise IncidentNotFound(f"there is no incident {target.model}, or not any more")
        return json_response(msgspec.json.encode(found))

    def _store(self) -> IncidentStore:
        if self._incident_store is None:
            raise UnknownRoute("incidents aren't kept here (setting `incidents.enabled`)")
        return self._incident_store

    def _plain(self, request: HttpRequest) -> bytes:
        return plain_body(request, max_bytes=self._body_max_bytes)


def find_target(path: str) -> Target | None:
    """Where a path leads, if it leads to one of these endpoints."""
    if (fixed := FIXED.get(path)) is not None:
        return fixed
    if path.startswith(BREAKERS):
        return _breaker(path.removeprefix(BREAKERS))
    if path.startswith(ROLLOUTS):
        model, slash, rest = path.removeprefix(ROLLOUTS).partition("/")
        found = None if slash and not rest else OF_ROLLOUT.get(rest)
    elif path.startswith(INCIDENTS):
        model = path.removeprefix(INCIDENTS)
        found = OF_INCIDENT if model.isascii() and model.isdecimal() and len(model) <= INCIDENT_DIGITS_MAX else None
    elif path.startswith(REPOSITORY):
        model, _, rest = path.removeprefix(REPOSITORY).partition("/")
        found = OF_REPOSITORY.get(rest)
    else:
        return None
    return found._replace(model=model) if found is not None and 0 < len(model) <= MODEL_MAX_CHARACTERS else None


def _breaker(rest: str) -> Target | None:
    """``model/version/close``."""
    model, _, rest = rest.partition("/")
    version, _, command = rest.partition("/")
    if command != "close" or not (0 < len(model) <= MODEL_MAX_CHARACTERS and 0 < len(version) <= MODEL_MAX_CHARACTERS):
        return None
    return CLOSE._replace(model=model, version=version)
