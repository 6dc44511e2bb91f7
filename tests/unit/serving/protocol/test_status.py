"""One status for every error."""

from __future__ import annotations

import inspect
import json

import pytest

from serving import errors
from serving.protocol.status import STATUS, error_response, status_of


def concrete_errors() -> set[type[errors.RequestError]]:
    """Every class of the taxonomy that no other class there is made of."""
    found = [cls for _, cls in inspect.getmembers(errors, inspect.isclass)]
    classes = [cls for cls in found if issubclass(cls, errors.RequestError)]
    bases = {base for cls in classes for base in cls.__mro__[1:]}
    return {cls for cls in classes if cls not in bases}


def test_every_concrete_error_has_exactly_one_status() -> None:
    assert set(STATUS) == concrete_errors()


@pytest.mark.parametrize(
    ("exc", "status"),
    [
        (errors.InvalidRequest("x"), 400),
        (errors.ModelNotFound("x"), 404),
        (errors.UnknownRoute("x"), 404),
        (errors.PayloadTooLarge("x"), 413),
        (errors.UnsupportedEncoding("x"), 415),
        (errors.ModelFailed("x"), 500),
        (errors.InvalidAnswer("x"), 500),
        (errors.ReplicaUnavailable("x"), 503),
        (errors.ReplicaLost("x"), 503),
        (errors.DeadlineExceeded("x"), 504),
    ],
)
def test_an_error_as_the_caller_sees_it(exc: errors.RequestError, status: int) -> None:
    later = [(b"retry-after", b"1")] if status == 503 else []
    assert error_response(exc) == (status, [(b"content-type", b"application/json"), *later], b'{"error":"x"}')


def test_a_subclass_has_the_status_of_its_base() -> None:
    class Picky(errors.InvalidRequest):
        pass

    assert status_of(Picky("x")) == 400


def test_who_must_show_a_token_is_told_so() -> None:
    status, headers, _ = error_response(errors.NotAuthorized("x"))
    assert status == 401
    assert (b"www-authenticate", b"Bearer") in headers
    assert error_response(errors.ForeignOrigin("x")).status == 403


def test_a_wrong_method_says_which_are_right() -> None:
    status, headers, _ = error_response(errors.MethodNotAllowed("x", allow="GET, HEAD"))
    assert status == 405
    assert (b"allow", b"GET, HEAD") in headers


@pytest.mark.parametrize(("seconds", "header"), [(0.01, b"1"), (1.2, b"2"), (30, b"30")])
def test_a_shed_request_says_when_to_come_back(seconds: float, header: bytes) -> None:
    status, headers, _ = error_response(errors.Overloaded("x", retry_after_s=seconds))
    assert status == 429
    assert (b"retry-after", header) in headers


@pytest.mark.parametrize(("seconds", "header"), [(0.01, b"1"), (24.1, b"25")])
def test_who_knows_how_long_the_version_is_spared_says_so(seconds: float, header: bytes) -> None:
    for exc in (errors.CircuitOpen("x", retry_after_s=seconds), errors.NoAnswer("x", retry_after_s=seconds)):
        status, headers, _ = error_response(exc)
        assert (status, headers[1:]) == (503, [(b"retry-after", header)])
    assert (b"retry-after", b"1") in error_response(errors.NoAnswer("x")).headers


@pytest.mark.parametrize("exc", [errors.Internal("a secret"), KeyError("a secret"), MemoryError()])
def test_a_defect_keeps_its_details_to_itself(exc: Exception) -> None:
    status, headers, body = error_response(exc)
    assert (status, headers) == (500, [(b"content-type", b"application/json")])
    assert json.loads(body) == {"error": "internal error; the server's log has the details"}


def test_any_text_can_be_shown() -> None:
    assert json.loads(error_response(errors.InvalidRequest('ü "\n\0')).body) == {"error": 'ü "\n\0'}
    assert json.loads(error_response(errors.InvalidRequest("half \ud800")).body.decode()) == {"error": "half \ud800"}
    assert json.loads(error_response(errors.ReplicaLost()).body) == {"error": "replica_lost"}
