"""Lines about requests: one for each that went wrong, few of many alike, and none of what nobody shall read."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from serving.errors import DeadlineExceeded, InvalidRequest, ModelFailed, ModelNotFound, RequestError
from serving.log_lines import FIELDS
from serving.model_settings import ModelSettings
from serving.request.pipeline import CANCELLED, NO_VERSION, Ended, InferCall
from serving.settings import IncidentSettings, Settings
from serving.tracing.context import RequestContexts
from serving.tracing.privacy import quotable
from serving.tracing.rates import KINDS_MAX, LineRates
from serving.tracing.request_log import LINES_BURST, RequestLog
from tests.fakes import FakeClock
from tests.unit.serving.incidents.conftest import attempt, ended

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE_ID}-b7ad6b7169203331-00".encode()


class Lines(logging.Handler):
    """Keeps what was written: level, message, and what is known beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.all: list[tuple[str, str, dict[str, Any]]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.all.append((record.levelname, record.getMessage(), getattr(record, FIELDS, {})))

    @property
    def messages(self) -> list[str]:
        return [message for _, message, _ in self.all]


def logger_to(lines: Lines) -> logging.Logger:
    logger = logging.getLogger("tests.requests")
    logger.handlers = [lines]
    logger.setLevel(logging.INFO)
    logger.propagate = False
    return logger


class Logged:
    def __init__(self, clock: FakeClock, *, share: float = 0.0, settings: Settings | None = None) -> None:
        self.lines = Lines()
        self.clock = clock
        self.log = RequestLog(
            logger_to(self.lines),
            share=share,
            quotable=quotable(settings or Settings()),
            rollout_of=lambda _: "m-1",
            clock=clock,
            random=lambda: 0.5,
        )

    def hear(self, *requests: Ended) -> Lines:
        for request in requests:
            hear = self.log.of_good(request.call) if request.went_well else self.log.ended
            if hear is not None:
                hear(request)
        return self.lines


def known_call() -> InferCall:
    return InferCall("m", None, b"{}", context=RequestContexts("gw").begin({b"traceparent": TRACEPARENT}))


@pytest.fixture
def logged(clock: FakeClock) -> Logged:
    return Logged(clock)


def test_a_failed_request_leaves_a_line_by_which_all_of_it_is_found(logged: Logged) -> None:
    failed = (attempt(),)
    lines = logged.hear(ended(ModelFailed("it broke"), failed=failed, call=known_call()))
    assert lines.all == [
        (
            "WARNING",
            "m@v1: model_failed: it broke",
            {
                "request_id": "r7",
                "trace_id": TRACE_ID,
                "model": "m",
                "version": "v1",
                "rollout": "m-1",
                "outcome": "model_failed",
                "failure": "model_failed",
                "duration_ms": 250.0,
                "attempts": 0,
                "failed_version": "m@v1",
                "replica": "abc",
            },
        )
    ]


def test_a_degraded_answer_leaves_one_that_says_why_and_by_whom(logged: Logged) -> None:
    ((level, message, known),) = logged.hear(ended(failed=(attempt(),), reason="model_failed", by="v0")).all
    assert (level, message) == ("WARNING", "m@v1: degraded, because of model_failed: m@v1: it broke")
    assert (known["answered_by"], known["outcome"], known["failure"]) == ("m@v0", "degraded", "model_failed")


def test_a_canary_whose_failure_nobody_saw_leaves_one(logged: Logged) -> None:
    ((level, message, known),) = logged.hear(ended(failed=(attempt(version="m@v2"),))).all
    assert (level, message) == ("INFO", "m@v1: ok, because of model_failed: m@v2: it broke")
    assert (known["failed_version"], known["rollout"]) == ("m@v2", "m-1")


@pytest.mark.parametrize(
    "quiet",
    [ended(), ended(failed=(attempt(),)), ended(outcome=CANCELLED, failed=(attempt(),))],
    ids=["good", "made good by a further attempt", "given up by its caller"],
)
def test_what_went_well_leaves_none(logged: Logged, quiet: Ended) -> None:
    assert logged.hear(quiet).all == []


def test_what_its_caller_did_wrong_is_no_warning(logged: Logged) -> None:
    unknown = ended(ModelNotFound("no x"), key=NO_VERSION, call=InferCall("x", None, b""), exchange=None)
    lines = logged.hear(ended(InvalidRequest("inputs: none")), unknown)
    assert [(level, message) for level, message, _ in lines.all] == [
        ("INFO", "m@v1: invalid_request: inputs: none"),
        ("INFO", "x: model_not_found: no x"),
    ]


def test_of_many_alike_few_leave_a_line_and_the_next_one_says_how_many_did_not(logged: Logged) -> None:
    lines = logged.hear(*[ended(ModelFailed("it broke"))] * 100)
    assert len(lines.all) == LINES_BURST
    assert (logged.log.stats.written, logged.log.stats.held_back) == (LINES_BURST, 100 - LINES_BURST)
    logged.hear(ended(DeadlineExceeded("too late")))
    assert lines.messages[-1] == "m@v1: deadline_exceeded: too late"
    logged.clock.advance(1.0)
    logged.hear(*[ended(ModelFailed("it broke"))] * 2)
    assert len(lines.all) == LINES_BURST + 2
    assert lines.all[-1][2]["similar_held_back"] == 100 - LINES_BURST
    assert "similar_held_back" not in lines.all[0][2]


@pytest.mark.parametrize(("share", "number"), [(0.0, 0), (0.5, 0), (0.51, 3), (1.0, 3)])
def test_a_share_of_the_good_ones_leaves_a_line_if_that_is_wanted(clock: FakeClock, share: float, number: int) -> None:
    lines = Logged(clock, share=share).hear(ended(), ended(), ended(failed=(attempt(),)))
    assert [(level, message) for level, message, _ in lines.all] == [("INFO", "m@v1: ok")] * number


def private(**more: Any) -> Settings:
    return Settings(models=(ModelSettings(name="m", versions=("v1",), **more),))


@pytest.mark.parametrize(
    "settings",
    [
        private(sensitive=True),
        private(redact=("x",)),
        Settings(incidents=IncidentSettings(redaction="package.module:function")),
    ],
    ids=["sensitive", "redact", "a function of theirs"],
)
@pytest.mark.parametrize("error", [ModelFailed("patient Smith"), InvalidRequest("'Smith' isn't a number")])
def test_of_a_private_model_no_text_is_written(clock: FakeClock, settings: Settings, error: RequestError) -> None:
    lines = Logged(clock, settings=settings).hear(ended(error))
    assert lines.messages == [f"m@v1: {error.code}"]
    assert "Smith" not in repr(lines.all)


def test_a_text_has_an_end(logged: Logged) -> None:
    (message,) = logged.hear(ended(ModelFailed("x" * 100_000))).messages
    assert len(message) < 1000


def test_a_line_that_can_not_be_made_harms_nobody_and_is_told_of_once(clock: FakeClock) -> None:
    logged = Logged(clock)
    broken = ended(ModelFailed("it broke"), exchange="no exchange")
    logged.hear(broken, broken)
    assert logged.lines.messages == ["a request left no line"]


def test_a_kind_has_its_burst_and_then_its_rate() -> None:
    rates = LineRates(per_s=2.0, burst=3)
    assert [rates.take("a", 0.0) for _ in range(5)] == [0, 0, 0, None, None]
    assert rates.take("b", 0.0) == 0
    assert rates.take("a", 0.4) is None
    assert rates.take("a", 0.5) == 3
    assert [rates.take("a", 100.0) for _ in range(4)] == [0, 0, 0, None]


def test_kinds_beyond_a_number_share_one_rate() -> None:
    rates = LineRates(per_s=1.0, burst=1)
    taken = [rates.take(number, 0.0) for number in range(KINDS_MAX + 50)]
    assert taken.count(0) == KINDS_MAX + 1
