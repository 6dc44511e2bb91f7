"""Sticky keys: which request had which key, and whether a key that has met the canary is sent back."""

from __future__ import annotations

import random

from loadtests.chaos.stickiness import SETTLE_S, Moved, keys_of, moved_back
from loadtests.users.asking import KEYS
from loadtests.users.load import Load, Users, arrivals
from loadtests.users.rows import Outcome, Row

CANARY, PRIOR = "digits@v2", "digits@v1"


def row(due_s: float, version: str, outcome: Outcome = Outcome.OK, user: str = "sticky") -> Row:
    return Row(due_s, due_s, due_s + 0.01, user, "digits", 200, outcome, version, "")


def moved(*rows: Row) -> Moved:
    """All of them with the same key."""
    return moved_back(rows, {f"{one.due_s:.5f}": 7 for one in rows}, canary=CANARY, prior=PRIOR)


def test_a_key_that_comes_to_the_canary_and_stays_hasnt_moved() -> None:
    assert moved(row(1, PRIOR), row(3, CANARY), row(9, CANARY)) == Moved(keys=1, back=0)


def test_every_answer_of_the_prior_version_after_that_counts() -> None:
    assert moved(row(3, CANARY), row(6, PRIOR), row(7, CANARY), row(9, PRIOR)) == Moved(keys=1, back=2)


def test_gateways_may_disagree_for_a_moment() -> None:
    assert moved(row(3, CANARY), row(3 + SETTLE_S / 2, PRIOR)).back == 0


def test_the_order_of_the_rows_is_no_matter() -> None:
    assert moved(row(9, PRIOR), row(3, CANARY)).back == 1


def test_other_users_and_fallbacks_say_nothing() -> None:
    others = [row(6, PRIOR, user="json"), row(7, PRIOR, Outcome.DEGRADED), row(8, "digits-lite@v1")]
    assert moved(row(3, CANARY), *others).back == 0


def test_keys_dont_answer_for_each_other() -> None:
    rows = [row(3, CANARY), row(6, PRIOR)]
    assert moved_back(rows, {"3.00000": 1, "6.00000": 2}, canary=CANARY, prior=PRIOR) == Moved(keys=1, back=0)


def test_the_keys_of_a_load_follow_from_its_seed() -> None:
    load = Load(rate=50, seconds=20, users=Users(json=1, sticky=3, bursts=1))
    keys = keys_of(load, random.Random("5/x/users"), calm_s=4)
    asked = [one for one in arrivals(load, random.Random("5/x/users"), calm_s=4) if one.user == "sticky"]
    assert len(keys) == len(asked) > 400
    assert keys[f"{asked[10].due_s:.5f}"] == asked[10].number % KEYS
