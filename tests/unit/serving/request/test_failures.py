"""One row for every way to fail, and what must hold whatever the rows say."""

from __future__ import annotations

import pytest

from serving import errors
from serving.request.failures import FAILURES, failure_of
from tests.unit.serving.protocol.test_status import concrete_errors

ERRORS = sorted(concrete_errors(), key=lambda error: error.code)


def test_every_concrete_error_has_exactly_one_row() -> None:
    assert set(FAILURES) == concrete_errors()


@pytest.mark.parametrize("error", [error for error in ERRORS if issubclass(error, errors.CallerError)])
def test_a_mistake_of_the_caller_has_no_consequences(error: type[errors.RequestError]) -> None:
    assert not any(FAILURES[error])


def test_a_shed_request_counts_for_nothing() -> None:
    row = failure_of(errors.Overloaded("x", retry_after_s=1))
    assert (row.retryable, row.counts, row.bad) == (False, False, False)


@pytest.mark.parametrize("error", ERRORS)
def test_what_counts_against_a_version_is_bad_in_a_comparison_too(error: type[errors.RequestError]) -> None:
    assert FAILURES[error].bad or not FAILURES[error].counts


@pytest.mark.parametrize("error", ERRORS)
def test_only_an_attempt_is_repeated_and_what_is_repeated_may_fall_back(error: type[errors.RequestError]) -> None:
    row = FAILURES[error]
    if row.retryable:
        assert issubclass(error, errors.AttemptError | errors.Internal)
        assert row.may_fall_back


@pytest.mark.parametrize(
    ("error", "retryable", "counts"),
    [
        (errors.ReplicaLost, True, True),
        (errors.ReplicaUnavailable, True, False),
        (errors.AttemptTimeout, True, True),
        (errors.ModelFailed, True, True),
        (errors.InvalidAnswer, True, True),
        (errors.CircuitOpen, False, False),
        (errors.QueueTimeout, False, False),
        (errors.DeadlineExceeded, False, True),
    ],
)
def test_the_rows_that_decide_what_happens_to_an_attempt(
    error: type[errors.RequestError], retryable: bool, counts: bool
) -> None:
    assert (FAILURES[error].retryable, FAILURES[error].counts) == (retryable, counts)


def test_only_what_a_model_computed_may_be_the_inputs_doing() -> None:
    assert {error for error, row in FAILURES.items() if row.by_input} == {errors.ModelFailed, errors.InvalidAnswer}
