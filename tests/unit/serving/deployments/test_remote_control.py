"""The control plane through a handle: what it says comes through, and a dead one keeps nobody waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from ray.exceptions import ActorDiedError
from ray.serve.exceptions import RayServeException

from serving.deployments.remote_control import ANSWER_TIMEOUT_S, LOAD_TIMEOUT_S, REFUSALS, RemoteControl, refusal
from serving.errors import Internal, ReplicaUnavailable, RequestError, RolloutRefused, RolloutsUnavailable
from tests.fakes import FakeClock

Call = Callable[[RemoteControl], Awaitable[Any]]

READS: dict[str, Call] = {
    "rollouts": lambda control: control.rollouts(),
    "rollout": lambda control: control.rollout("m"),
    "rollout_history": lambda control: control.rollout_history("m", 5, 10),
}
COMMANDS: dict[str, Call] = {
    "start_rollout": lambda control: control.start_rollout(b"body"),
    "command_rollout": lambda control: control.command_rollout("m", "pause", b"body"),
}
OTHERS: dict[str, Call] = {
    "load": lambda control: control.load("m", b"body"),
    "unload": lambda control: control.unload("m", b"body"),
    "restart_gateways": lambda control: control.restart_gateways(),
    "gateways": lambda control: control.gateways(),
    "close_breaker": lambda control: control.close_breaker("m", "v1", b"body"),
}
ALL = {**READS, **COMMANDS, **OTHERS}
ARGUMENTS = {
    "rollouts": (),
    "rollout": ("m",),
    "rollout_history": ("m", 5, 10),
    "start_rollout": (b"body",),
    "command_rollout": ("m", "pause", b"body"),
    "load": ("m", b"body"),
    "unload": ("m", b"body"),
    "restart_gateways": (),
    "gateways": (),
    "close_breaker": ("m", "v1", b"body"),
}


class Handle:
    """A Serve handle whose calls all get ``answer``; None means that they wait for ever, as with a dead replica."""

    def __init__(self, answer: Any = None) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.options_seen: list[dict[str, Any]] = []
        self.abandoned = 0
        self._answer = answer

    def options(self, **options: Any) -> Handle:
        self.options_seen.append(options)
        return self

    async def remote(self, *args: Any) -> Any:
        self.calls.append((self.options_seen[-1]["method_name"], args))
        if isinstance(self._answer, Exception):
            raise self._answer
        if self._answer is None:
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                self.abandoned += 1
        return self._answer


def over(handle: Handle) -> RemoteControl:
    stand_in: Any = handle
    return RemoteControl(stand_in)


@pytest.mark.parametrize("name", ALL)
async def test_every_method_is_the_one_of_that_name_over_there_by_reference(clock: FakeClock, name: str) -> None:
    handle = Handle(b"{}")
    answer = await ALL[name](over(handle))
    assert handle.calls == [(name, ARGUMENTS[name])]
    assert handle.options_seen == [{"method_name": name, "_by_reference": True}]
    assert answer == (None if name in ("load", "unload") else b"{}")


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("error", REFUSALS)
async def test_a_refusal_is_the_same_error_here(clock: FakeClock, name: str, error: type[RequestError]) -> None:
    with pytest.raises(error) as caught:
        await ALL[name](over(Handle((error.code, "because"))))
    assert caught.value.message == "because"


async def test_a_refusal_that_nobody_expects_is_a_defect(clock: FakeClock) -> None:
    with pytest.raises(Internal):
        await over(Handle(("overloaded", "x"))).rollouts()


@pytest.mark.parametrize("name", ALL)
async def test_nobody_waits_for_a_control_plane_that_is_dead(clock: FakeClock, name: str) -> None:
    handle = Handle()
    within_s = LOAD_TIMEOUT_S if name in ("load", "unload") else ANSWER_TIMEOUT_S
    started = asyncio.get_running_loop().time()
    with pytest.raises(ReplicaUnavailable if name in OTHERS else RolloutsUnavailable) as caught:
        await ALL[name](over(handle))
    assert asyncio.get_running_loop().time() - started == pytest.approx(within_s, abs=0.01)
    assert f"didn't answer within {within_s:g} s" in caught.value.message
    assert ("may have been carried out" in caught.value.message) == (name in COMMANDS)
    assert handle.abandoned == 1, "the call would still be made once there is a control plane again"


@pytest.mark.parametrize("error", [ActorDiedError(), RayServeException("the deployment is gone")])
@pytest.mark.parametrize("name", ALL)
async def test_a_control_plane_that_dies_meanwhile_is_named(clock: FakeClock, name: str, error: Exception) -> None:
    with pytest.raises(ReplicaUnavailable if name in OTHERS else RolloutsUnavailable) as caught:
        await ALL[name](over(Handle(error)))
    assert f"the control plane didn't answer: {type(error).__name__}" in caught.value.message


async def test_a_caller_that_goes_away_is_not_answered_with_an_error(clock: FakeClock) -> None:
    task = asyncio.create_task(over(Handle()).rollout("m"))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_over_there_an_answer_stays_one_and_an_error_becomes_its_code_and_text(clock: FakeClock) -> None:
    async def command(error: RequestError | None) -> bytes:
        if error is not None:
            raise error
        return b"{}"

    assert await refusal(command(None)) == b"{}"
    assert await refusal(command(RolloutRefused("resume it"))) == ("rollout_refused", "resume it")
