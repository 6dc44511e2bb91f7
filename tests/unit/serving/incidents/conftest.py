"""Requests that ended in every way, as an observer hears of them, and a keeper whose thread a test plays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.inference import InferenceRequest, Tensor
from serving.errors import RequestError
from serving.incidents.keeper import Keeper, Privacy
from serving.incidents.redaction import Redact, Redaction
from serving.incidents.store import IncidentStore
from serving.request.attempts import Exchange, FailedAttempt
from serving.request.pipeline import DEGRADED, OK, Ended, Given, InferCall, Origin
from serving.settings import IncidentSettings
from tests.fakes import FakeClock

X = Tensor("x", "FP32", np.array([[1.0, 2.0]], np.float32))
Y = Tensor("y", "FP32", np.array([[3.0]], np.float32))
MB = 1 << 20


def ended(
    error: RequestError | None = None,
    *,
    outcome: str | None = None,
    failed: tuple[FailedAttempt, ...] = (),
    reason: str | None = None,
    by: str = "v1",
    inputs: tuple[Tensor, ...] = (X,),
    model: str = "m",
    **more: Any,
) -> Ended:
    """Of ``m@v1``: by default a good answer; with an error that, with a ``reason`` a degraded one, given by ``by``."""
    request = InferenceRequest(model, inputs)
    exchange = Exchange(request, 1.0)
    exchange.failed = failed
    origin = None if reason is None else Origin("version", reason)
    given = None if error is not None else Given((Y,), model, by, origin)
    found = outcome or (error.code if error is not None else OK if reason is None else DEGRADED)
    whole: dict[str, Any] = {
        "call": InferCall(model, None, b"{}"),
        "key": (model, "v1"),
        "outcome": found,
        "seconds": 0.25,
        "origin": origin,
        "exchange": exchange,
        "request": request,
        "given": given,
        "error": error,
        "request_id": "r7",
    }
    return Ended(**{**whole, **more})


def attempt(code: str = "model_failed", version: str = "m@v1", **more: Any) -> FailedAttempt:
    return FailedAttempt(version, "abc", code, f"{version}: it broke", 0.1, **more)


class Kept:
    """A keeper with its store in ``folder``; nothing is written until ``write``."""

    def __init__(
        self,
        clock: FakeClock,
        folder: Path,
        *,
        privacy: Privacy | None = None,
        redact: Redact | None = None,
        chance: float = 0.5,
        **settings: Any,
    ) -> None:
        own = IncidentSettings(**settings)
        self.store = IncidentStore(folder / "incidents", max_bytes=own.max_bytes, max_number=own.max_number)
        self.keeper = Keeper(
            self.store,
            own,
            privacy=lambda _model: privacy or Privacy(),
            rollout_of=lambda _model: "m-1",
            redaction=Redaction(redact),
            clock=clock,
            random=lambda: chance,
        )

    def write(self) -> None:
        while self.keeper.write_waiting():
            pass


MakeKept = Callable[..., Kept]


@pytest.fixture
def kept(clock: FakeClock, tmp_path: Path) -> MakeKept:
    def make(**more: Any) -> Kept:
        return Kept(clock, tmp_path, **more)

    return make
