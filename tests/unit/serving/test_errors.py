"""Errors that come from another process are told by their code."""

from __future__ import annotations

from serving.errors import Internal, InvalidRequest, LoadFailed, ModelNotFound, error_class


def test_a_code_is_its_class_again() -> None:
    among = (InvalidRequest, ModelNotFound, LoadFailed)
    assert [error_class(error.code, among=among) for error in among] == list(among)


def test_a_code_that_nobody_expects_there_is_an_internal_error() -> None:
    assert error_class(LoadFailed.code, among=(InvalidRequest, ModelNotFound)) is Internal
    assert error_class("from_the_future", among=(InvalidRequest,)) is Internal
