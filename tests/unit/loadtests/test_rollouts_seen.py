"""What the rollout proofs make of the answers that clients got."""

from __future__ import annotations

import pytest

from loadtests.resilience.figures import Kind, Sample
from loadtests.rollouts.seen import USERS, Moved, accuracy, by_whom, index_of, last_answer_s, moved_back, sticky_key

RATE = 10.0
V1, V2 = "digits@v1", "digits@v2"


def sample(index: int, by: str, *, took_s: float = 0.01, kind: Kind = Kind.OK, image: int = 0) -> Sample:
    return Sample(due_s=index / RATE, took_s=took_s, kind=kind, by=by, image=image)


def of_user(turn: int, by: str, *, kind: Kind = Kind.OK) -> Sample:
    """The request that the first user makes in their turn so-and-so; turns are 19.4 s apart."""
    return sample(1 + 2 * USERS * turn, by, kind=kind)


def test_every_other_request_has_a_key_and_keys_come_again() -> None:
    keys = [sticky_key(index) for index in range(4 * USERS)]
    assert keys[::2] == [None] * (2 * USERS)
    assert len(set(keys[1::2])) == USERS
    assert sticky_key(1) == sticky_key(1 + 2 * USERS) != sticky_key(3)


def test_a_request_is_known_by_when_it_was_due() -> None:
    assert all(index_of(sample(index, V1), RATE) == index for index in range(3000))


def test_the_last_answer_is_the_one_that_came_last_not_the_one_that_was_due_last() -> None:
    samples = [sample(0, V2, took_s=9.0), sample(1, V2), sample(99, V1)]
    assert last_answer_s(samples, V2) == 9.0
    assert last_answer_s(samples, "digits@v3") is None
    assert by_whom([*samples, sample(5, "", kind=Kind.LOST)]) == {V1: 1, V2: 2}


@pytest.mark.parametrize(
    ("answers", "moved"),
    [
        ([V1, V1, V2, V2], Moved(1, 0)),
        ([V1, V2, V1, V2], Moved(1, 1)),
        ([V2, V1, V1, V1], Moved(1, 3)),
        ([V1, V1, V1, V1], Moved(0, 0)),
    ],
)
def test_a_key_that_met_the_canary_may_not_go_back(answers: list[str], moved: Moved) -> None:
    samples = [of_user(turn, by) for turn, by in enumerate(answers)]
    assert moved_back(samples, V2, rate=RATE, until_s=1e9) == moved


def test_going_back_is_fine_after_a_rollback_without_a_key_and_while_gateways_change_tables() -> None:
    assert moved_back([of_user(0, V2), of_user(1, V1)], V2, rate=RATE, until_s=10.0) == Moved(1, 0)
    assert moved_back([sample(0, V2), sample(50, V1)], V2, rate=RATE, until_s=1e9) == Moved(0, 0)
    soon = of_user(0, V1)._replace(due_s=of_user(0, V2).due_s + 1e-3)
    assert moved_back([of_user(0, V2), soon], V2, rate=RATE, until_s=1e9) == Moved(1, 0)


def test_accuracy_is_that_of_the_answers_that_each_version_gave() -> None:
    said = {V1: [{"label": [3.0]}, {"label": [5.0]}], V2: [{"label": [3.0]}, {"label": [4.0]}]}
    samples = [sample(0, V1, image=0), sample(1, V1, image=1), sample(2, V2, image=1), sample(3, "digits@static")]
    samples.append(sample(4, V2, image=0, kind=Kind.WRONG))
    assert accuracy(samples, said, [3, 4]) == {V1: 0.5, V2: 1.0}
