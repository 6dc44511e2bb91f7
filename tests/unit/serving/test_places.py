"""No password is shown, however it is written."""

from __future__ import annotations

import pytest

from serving.places import shown_place


@pytest.mark.parametrize(
    ("place", "shown"),
    [
        ("/state/events@home?.db", "/state/events@home?.db"),
        ("sqlite:///state/a%20b.db", "sqlite:///state/a%20b.db"),
        ("postgresql://u:secret@h:5432/db", "postgresql://h:5432/db"),
        ("postgresql://u:secret@h1:1,h2:2/db?sslmode=require", "postgresql://h1:1,h2:2/db"),
        ("postgresql://u:secret@[::1]:5/db", "postgresql://[::1]:5/db"),
        ("postgresql:///db?host=/tmp&user=u&password=secret", "postgresql:///db"),
        ("postgresql://u:secret@%2Ftmp/db", "postgresql://%2Ftmp/db"),
        ("redis://:secret@h:6379/0", "redis://h:6379/0"),
        ("redis://:s@secret@h", "redis://h"),
        ("unix://u:secret@/run/redis.sock?db=1", "unix:///run/redis.sock"),
        ("postgresql://u", "postgresql://u"),
    ],
)
def test_a_place_is_shown_without_what_opens_it(place: str, shown: str) -> None:
    assert shown_place(place) == shown


@pytest.mark.parametrize(
    "url",
    [
        "redis://:sec/ret@h",
        "redis://:12/ret@h",
        "redis://:12?ret@h",
        "redis://:12#ret@h",
        "postgresql://u:sec/ret@h/db",
        "postgresql://u:12/ret@h/db",
        "postgresql://u:sec?ret@h/db",
        "postgresql://h?password=sec@ret",
        "postgresql:///db?password=sec@ret",
        "redis://:ret",
        "mysql://u:sec[ret@h",
    ],
)
def test_of_what_can_be_read_in_two_ways_nothing_is_shown(url: str) -> None:
    shown = shown_place(url)
    assert not any(part in shown for part in ("sec", "ret", "12"))
