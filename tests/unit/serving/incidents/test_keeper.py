"""Which requests are kept, what of them, and that an outage costs neither memory nor time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from models.inference import Array, InferenceRequest, Tensor
from serving.errors import BadQuality, InvalidRequest, ModelFailed, NoAnswer, Overloaded
from serving.incidents.incident import IncidentLine, IncidentReport, array_of
from serving.incidents.keeper import KINDS_MAX, QUEUE_MAX, QUEUE_MAX_BYTES, Privacy
from serving.incidents.store import Wanted
from serving.request.attempts import FailedAttempt
from serving.request.pipeline import CANCELLED, InferCall
from tests.fakes import FakeClock
from tests.unit.serving.incidents.conftest import Kept, X, attempt, ended

if TYPE_CHECKING:
    MakeKept = Callable[..., Kept]


def lines(here: Kept) -> list[IncidentLine]:
    here.write()
    return list(here.store.page(Wanted()).incidents)


def only(here: Kept) -> IncidentReport:
    (line,) = lines(here)
    found = here.store.get(line.id)
    assert found is not None
    return found


def test_a_failed_request_is_kept_with_all_that_is_known_of_it(kept: MakeKept) -> None:
    here = kept()
    here.keeper.ended(ended(ModelFailed("m@v1: it broke"), failed=(attempt(), attempt())))
    found = only(here)
    assert (found.model, found.version, found.outcome, found.failure) == ("m", "v1", "model_failed", "model_failed")
    assert (found.fault, found.request_id, found.seconds, found.rollout) == ("m@v1: it broke", "r7", 0.25, "m-1")
    assert [(one.version, one.replica, one.failure, one.seconds) for one in found.attempts] == [
        ("m@v1", "abc", "model_failed", 0.1)
    ] * 2
    values = array_of(found.inputs[0])
    assert values is not None
    assert np.array_equal(values, X.array)
    assert (found.outputs, found.answered_by, found.body) == ((), "", None)


def test_a_degraded_answer_is_kept_with_what_the_fallback_gave(kept: MakeKept) -> None:
    here = kept()
    here.keeper.ended(ended(reason="model_failed", by="v0", failed=(attempt(),)))
    found = only(here)
    assert (found.outcome, found.failure, found.fault) == ("degraded", "model_failed", "m@v1: it broke")
    assert found.answered_by == "m@v0"
    assert [tensor.name for tensor in found.outputs] == ["y"]


def test_of_an_invalid_answer_the_answer_is_kept(kept: MakeKept) -> None:
    nan = Tensor("y", "FP32", np.array([[np.nan]], np.float32))
    here = kept()
    here.keeper.ended(ended(NoAnswer("nobody could"), failed=(attempt("invalid_answer", outputs=(nan,)),)))
    found = only(here)
    assert (found.outcome, found.failure, found.answered_by) == ("no_answer", "invalid_answer", "")
    values = array_of(found.outputs[0])
    assert values is not None
    assert np.isnan(values).all()


def test_a_canary_that_failed_is_kept_although_its_caller_saw_nothing(kept: MakeKept) -> None:
    here = kept()
    here.keeper.ended(ended(failed=(attempt(version="m@v2"),)))
    found = only(here)
    assert (found.outcome, found.failure, found.version, found.answered_by) == ("ok", "model_failed", "v2", "m@v1")


def test_values_that_are_not_as_they_should_be_are_kept_whether_refused_or_not(kept: MakeKept) -> None:
    here = kept()
    here.keeper.ended(ended(BadQuality("input 'x': element [0, 0] is 1, over max 0"), given=None, exchange=None))
    here.keeper.ended(ended(doubts="input 'x': element [0, 0] is 1, over max 0"))
    assert [(line.outcome, line.failure) for line in lines(here)] == [
        ("ok", "input_quality"),
        ("input_quality", "input_quality"),
    ]
    assert all("over max 0" in line.fault for line in lines(here))


@pytest.mark.parametrize(
    "good",
    [
        ended(),
        ended(failed=(attempt(),)),
        ended(outcome=CANCELLED, given=None),
        ended(InvalidRequest("bad"), request=None, exchange=None),
    ],
    ids=["a good answer", "a good answer after another attempt", "a caller who went away", "the caller's own mistake"],
)
def test_what_went_well_or_was_the_callers_own_doing_is_not_kept(kept: MakeKept, good: Any) -> None:
    here = kept()
    here.keeper.ended(good)
    assert lines(here) == []
    assert dict(here.keeper.stats.dropped) == {}


def test_a_callers_own_mistake_is_kept_with_its_bytes_if_the_settings_say_so(kept: MakeKept) -> None:
    here = kept(caller_errors=True)
    bad = ended(InvalidRequest("bad"), request=None, exchange=None, call=InferCall("m", None, b'{"inputs": 7}', 5))
    here.keeper.ended(bad)
    body = only(here).body
    assert body is not None
    assert (body.raw, body.size_bytes, body.json_length) == (b'{"inputs": 7}', 13, 5)


@pytest.mark.parametrize(("chance", "number"), [(0.0, 1), (0.3, 0)])
def test_shed_requests_are_sampled(kept: MakeKept, chance: float, number: int) -> None:
    here = kept(chance=chance, shed_share=0.2)
    here.keeper.ended(ended(Overloaded("later", retry_after_s=1.0), exchange=None))
    assert len(lines(here)) == number
    assert here.keeper.stats.dropped["sampled"] == 1 - number


# Privacy


def test_of_a_sensitive_model_nothing_is_kept(kept: MakeKept) -> None:
    here = kept(privacy=Privacy(sensitive=True))
    here.keeper.ended(ended(ModelFailed("it broke")))
    assert lines(here) == []


def test_named_inputs_leave_only_their_shape(kept: MakeKept) -> None:
    here = kept(privacy=Privacy(redact=frozenset({"x"})), caller_errors=True)
    here.keeper.ended(ended(ModelFailed("it broke")))
    (tensor,) = only(here).inputs
    assert (tensor.name, tensor.shape, tensor.raw, tensor.sha256, tensor.left_out) == (
        "x",
        (1, 2),
        None,
        "",
        "redacted",
    )


def test_texts_that_quote_values_and_unread_bytes_are_left_out_where_something_is_redacted(kept: MakeKept) -> None:
    here = kept(privacy=Privacy(redact=frozenset({"x"})), caller_errors=True)
    here.keeper.ended(ended(doubts="input 'x': element [0, 0] is 1, over max 0"))
    here.keeper.ended(ended(InvalidRequest("got 'Smith'"), request=None, exchange=None))
    found = lines(here)
    assert [line.fault for line in found] == ["", ""]
    unread = here.store.get(found[0].id)
    assert unread is not None
    assert unread.body is not None
    assert (unread.body.raw, unread.body.left_out, unread.body.sha256) == (None, "redacted", "")


DOUBTS = "input 'x': element [0, 0] is 1, over max 0"


@pytest.mark.parametrize("failed", [(attempt(),), ()], ids=["failed", "shed"])
def test_a_degraded_answers_doubtful_values_are_not_quoted_where_something_is_redacted(
    kept: MakeKept, failed: tuple[FailedAttempt, ...]
) -> None:
    here = kept(privacy=Privacy(redact=frozenset({"x"})))
    reason = "model_failed" if failed else "deadline_exceeded"
    here.keeper.ended(ended(doubts=DOUBTS, failed=failed, reason=reason))
    found = only(here)
    assert (found.outcome, found.failure, found.fault) == ("degraded", reason, "m@v1: it broke" if failed else "")


def test_a_degraded_answer_says_what_failed_and_if_nothing_is_known_of_that_what_is_doubtful(kept: MakeKept) -> None:
    here = kept()
    here.keeper.ended(ended(doubts=DOUBTS, failed=(attempt(),), reason="model_failed"))
    here.keeper.ended(ended(doubts=DOUBTS, reason="deadline_exceeded"))
    here.keeper.ended(ended(doubts=DOUBTS, failed=(attempt(),)))  # another replica has answered
    assert [line.fault for line in lines(here)] == [DOUBTS, DOUBTS, "m@v1: it broke"]


def hide_first(model: str, tensors: dict[str, Array]) -> Mapping[str, Array]:
    for array in tensors.values():
        array[..., 0] = 0
    return tensors


def test_a_function_says_what_may_be_kept_and_changes_nothing_else(kept: MakeKept) -> None:
    here = kept(redact=hide_first)
    here.keeper.ended(ended(ModelFailed("it broke")))
    values = array_of(only(here).inputs[0])
    assert values is not None
    assert values.tolist() == [[0.0, 2.0]]
    assert X.array.tolist() == [[1.0, 2.0]]


def broken(model: str, tensors: dict[str, Array]) -> Mapping[str, Array]:
    raise ZeroDivisionError


def another_type(model: str, tensors: dict[str, Array]) -> Mapping[str, Array]:
    return {name: array.astype(np.float64) for name, array in tensors.items()}


def unasked(model: str, tensors: dict[str, Array]) -> Mapping[str, Array]:
    return {"z": np.zeros(1, np.float32)}


@pytest.mark.parametrize("function", [broken, another_type, unasked, lambda model, tensors: None])
def test_a_function_that_fails_lets_nothing_through(kept: MakeKept, function: Any) -> None:
    here = kept(redact=function)
    here.keeper.ended(ended(ModelFailed("it broke")))
    found = only(here)
    assert [(tensor.raw, tensor.left_out) for tensor in found.inputs] == [(None, "redacted")]


# Sizes


def test_of_large_inputs_shapes_and_a_hash_are_kept(kept: MakeKept) -> None:
    here = kept(max_tensors_bytes=8)
    big = Tensor("x", "FP32", np.zeros((1, 3), np.float32))
    here.keeper.ended(ended(ModelFailed("it broke"), inputs=(big,)))
    here.keeper.ended(ended(ModelFailed("it broke"), inputs=(X,)))
    small, large = (here.store.get(line.id) for line in lines(here))
    assert small is not None
    assert large is not None
    assert small.inputs[0].raw is not None
    (tensor,) = large.inputs
    assert (tensor.raw, tensor.left_out, tensor.shape, len(tensor.sha256)) == (None, "size", (1, 3), 64)


def test_what_does_not_fit_the_queue_is_kept_as_shapes(kept: MakeKept) -> None:
    here = kept()
    huge = Tensor("x", "UINT8", np.zeros((1, QUEUE_MAX_BYTES), np.uint8))
    for _ in range(2):
        here.keeper.ended(ended(ModelFailed("it broke"), inputs=(huge,)))
    (tensor,) = (here.store.get(lines(here)[0].id) or pytest.fail("it is gone")).inputs
    assert (tensor.raw, tensor.sha256, tensor.left_out, tensor.shape) == (None, "", "size", (1, QUEUE_MAX_BYTES))


# An outage


def test_an_outage_keeps_a_few_of_each_kind_and_counts_the_rest(kept: MakeKept, clock: FakeClock) -> None:
    here = kept(rate_max=2.0)
    for _ in range(1000):
        here.keeper.ended(ended(ModelFailed("it broke")))
    here.keeper.ended(ended(ModelFailed("it broke"), model="n"))
    found = lines(here)
    assert [line.model for line in found] == ["n", *["m"] * 8]
    assert dict(here.keeper.stats.dropped) == {"rate": 992}
    clock.advance(1.0)
    for _ in range(10):
        here.keeper.ended(ended(ModelFailed("it broke")))
    assert len(lines(here)) == len(found) + 2


def test_the_queue_is_bounded(kept: MakeKept) -> None:
    here = kept(rate_max=1000.0)
    for _ in range(QUEUE_MAX + 10):
        here.keeper.ended(ended(ModelFailed("it broke")))
    assert here.keeper.waiting == QUEUE_MAX
    assert here.keeper.stats.dropped["queue"] == 10


def test_kinds_without_end_share_one_rate(kept: MakeKept) -> None:
    here = kept(rate_max=0.1)
    for number in range(KINDS_MAX + 100):
        here.keeper.ended(ended(ModelFailed("it broke"), model=f"m{number}"))
        here.write()
    assert here.keeper.stats.dropped["rate"] == 99


def test_a_defect_costs_no_request(kept: MakeKept, caplog: pytest.LogCaptureFixture) -> None:
    here = kept()
    for _ in range(3):
        here.keeper.ended(ended(ModelFailed("it broke"), request=InferenceRequest("m", None)))  # type: ignore[arg-type]
    assert here.keeper.stats.dropped["unwritten"] == 3
    assert len(caplog.records) == 1


def test_a_store_that_can_not_be_written_is_told_of_once_and_counted(
    kept: MakeKept, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "incidents").write_text("not a folder")
    here = kept()
    for _ in range(3):
        here.keeper.ended(ended(ModelFailed("it broke")))
        here.write()
    assert dict(here.keeper.stats.dropped) == {"unwritten": 3}
    assert [record.getMessage().startswith("incidents can't be kept") for record in caplog.records] == [True]


def test_the_counts_say_what_is_kept_and_how_much_it_takes(kept: MakeKept) -> None:
    here = kept()
    here.keeper.ended(ended(ModelFailed("it broke")))
    here.write()
    stats = here.keeper.stats
    assert dict(stats.kept) == {("m", "model_failed"): 1}
    assert stats.number == 1
    assert stats.bytes > 4096


def test_what_waits_at_the_end_is_written_by_the_thread(kept: MakeKept) -> None:
    here = kept()
    here.keeper.start()
    here.keeper.ended(ended(ModelFailed("it broke")))
    assert here.keeper.close(within_s=20.0)
    here.keeper.ended(ended(ModelFailed("it broke")))  # too late
    assert len(lines(here)) == 1
    assert "incidents" not in {thread.name for thread in threading.enumerate()}
