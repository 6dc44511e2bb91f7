"""What stays is left alone, and cycles among what comes later are still found."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from contextlib import suppress

import pytest

from serving.garbage import YOUNG, paused, settle


class Node:
    def __init__(self) -> None:
        self.other: Node | None = None


def ring() -> weakref.ref[Node]:
    one, two = Node(), Node()
    one.other, two.other = two, one
    return weakref.ref(one)


@pytest.fixture(autouse=True)
def collector() -> Iterator[None]:
    threshold = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*threshold)


def test_what_is_there_is_frozen_and_its_garbage_gone() -> None:
    before = ring()
    stays = [Node() for _ in range(100)]
    settle()
    assert before() is None
    assert gc.get_freeze_count() > len(stays)
    assert not any(isinstance(each, Node) for each in gc.get_objects())


def test_cycles_that_come_later_go_without_being_asked_to() -> None:
    settle()
    later = ring()
    kept: list[list[int]] = [[] for _ in range(2 * YOUNG)]
    assert later() is None
    assert kept


def test_a_pause_ends_also_with_an_error() -> None:
    with suppress(ZeroDivisionError), paused():
        assert not gc.isenabled()
        raise ZeroDivisionError
    assert gc.isenabled()


def test_what_was_off_before_a_pause_stays_off() -> None:
    gc.disable()
    try:
        with paused():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
