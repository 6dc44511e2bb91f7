"""The rollouts of the system under test: asking about them, giving orders, and waiting for what they come to.

Over the admin API, through any gateway. Not here: judging what comes back (`history.py`, `seen.py`).
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from loadtests.resilience.client import NoReply, Pool
from loadtests.resilience.errors import RunError
from loadtests.rollouts.files import MODEL
from loadtests.rollouts.history import Event

WHO: Final = "loadtests"
OVER: Final = frozenset({"Succeeded", "RolledBack", "Aborted"})
_LOOK_S: Final = 0.05
_ASK_S: Final = 5.0
_PAGE: Final = 500
_ROOT: Final = "/v2/holdfast/rollouts"

Report = Mapping[str, Any]
Controller = Mapping[str, Any]


class Rollouts:
    """Those of the one model, asked about on these connections."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def everything(self) -> Mapping[str, Any] | None:
        """What the controller says of itself and of all rollouts; None if it doesn't."""
        found: Mapping[str, Any] | None = await self._ask_or_none(_ROOT)
        return found

    async def controller(self) -> Controller | None:
        said = await self.everything()
        return None if said is None else said["controller"]

    async def report(self) -> Report | None:
        """Of the latest rollout; None if nobody tells, or there never was one."""
        found: Report | None = await self._ask_or_none(f"{_ROOT}/{MODEL}")
        return found

    async def history(self, rollout: str) -> list[Event]:
        """All events of a rollout. Raises `RunError` if they can't be had."""
        found: list[Event] = []
        after: int | None = 0
        while after is not None:
            page = await self._page(after)
            found += page["events"]
            after = page["next"]
        return [event for event in found if event["rollout"] == rollout]

    async def _page(self, after: int) -> Mapping[str, Any]:
        path = f"{_ROOT}/{MODEL}/history?after={after}&limit={_PAGE}"
        try:
            status, answer = await self._pool.ask("GET", path)
        except NoReply as error:
            raise RunError(f"GET {path}: {error}") from None
        if status != 200:
            raise RunError(f"GET {path}: {status} {answer}")
        page: Mapping[str, Any] = answer
        return page

    async def start(self, text: str, why: str = "") -> Report:
        """Raises `RunError` with the refusal."""
        status, answer = await self._post(_ROOT, {"file": text, "who": WHO, "why": why})
        if status != 201:
            raise RunError(f"the rollout isn't started: {status} {answer}")
        report: Report = answer
        return report

    async def command(self, name: str, why: str = "") -> Report:
        status, answer = await self._post(f"{_ROOT}/{MODEL}/{name}", {"who": WHO, "why": why})
        if status != 200:
            raise RunError(f"{name}: {status} {answer}")
        report: Report = answer
        return report

    async def until(self, what: str, condition: Callable[[Report], bool], *, within_s: float) -> Report:
        """The first report of which the condition is true. Raises `RunError` with the last one if that takes longer.

        A controller that doesn't answer is asked again.
        """
        give_up = time.monotonic() + within_s
        last: Report | None = None
        while time.monotonic() < give_up:
            report = await self.report()
            if report is not None and condition(report):
                return report
            last = report or last
            await asyncio.sleep(_LOOK_S)
        raise RunError(f"not within {within_s:g} s: {what}; {_where(last)}")

    async def until_controller(
        self, what: str, condition: Callable[[Controller], bool], *, within_s: float
    ) -> tuple[Controller, float]:
        """What the controller says when the condition is true, and the seconds until then."""
        began = time.monotonic()
        last: Controller | None = None
        while time.monotonic() - began < within_s:
            said = await self.controller()
            if said is not None and condition(said):
                return said, time.monotonic() - began
            last = said or last
            await asyncio.sleep(_LOOK_S)
        raise RunError(f"not within {within_s:g} s: {what}; the controller says {dict(last or {})}")

    async def pid(self) -> int:
        """The process of the control plane."""
        said, _ = await self.until_controller("the controller says its pid", lambda one: bool(one["pid"]), within_s=30)
        return int(said["pid"])

    async def _ask_or_none(self, path: str) -> Any:
        try:
            status, answer = await self._pool.ask("GET", path, timeout_s=_ASK_S)
        except NoReply:
            return None
        return answer if status == 200 else None

    async def _post(self, path: str, document: Mapping[str, Any]) -> tuple[int, Any]:
        try:
            return await self._pool.ask("POST", path, document, timeout_s=30.0)
        except NoReply as error:
            raise RunError(f"POST {path}: {error}") from None


def _where(report: Report | None) -> str:
    if report is None:
        return "no report of it"
    return f"{report['rollout']} is {report['phase']} at {report['weight']} % ({report['reason']})"
