"""No password is shown, however it is written."""

from __future__ import annotations

import pytest

from serving.cache.redis_tier import connect
from serving.places import log_fault, redis_fault, shown_place
from serving.rollout.log_postgres import read_url


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


@pytest.mark.parametrize(
    "place",
    [
        "events.db",
        "/a/b@c?.db",
        "sqlite:///state/a%20b.db",
        "postgresql://",
        "postgresql:///db",
        "postgres://u@h",
        "postgresql://u:p%2Fss@h:5432/db?sslmode=require&application_name=a%20b",
        "postgresql://u:s?ec#ret@h1:1,h2:2/db",
        "postgresql://u:p@[::1]:5/db?",
        "postgresql://%2Ftmp/db",
        "postgresql:///db?host=/tmp&user=u@x&password=",
    ],
)
def test_what_libpq_reads_may_be_an_event_log(place: str) -> None:
    assert log_fault(place) is None
    if place.startswith("postgres"):
        assert read_url(place) is not None


@pytest.mark.parametrize(
    "place",
    [
        "",
        " ",
        "mysql://u:secret@h/db",
        "sqlite://rel/path",
        "sqlite:///",
        "postgresql://u:secret%zz@h/db",
        "postgresql://u:secret%00@h/db",
        "postgresql://u:secret/1@h/db",
        "postgresql://u:secret@x@h:port/db",
        "postgresql://h/db?secret",
        "postgresql://h/db?password=se=cret",
    ],
)
def test_what_can_be_no_event_log_is_said_without_repeating_it(place: str) -> None:
    fault = log_fault(place)
    assert fault is not None
    assert "cret" not in fault


@pytest.mark.parametrize(
    "url", ["redis://h", "rediss://u:p%2Fss@h:6379/0?protocol=3", "redis://:s@t@[::1]:6379", "unix:///run/r.sock?db=1"]
)
def test_what_the_redis_library_reads_may_be_a_redis(url: str) -> None:
    assert redis_fault(url) is None
    connect(url, max_connections=1)


@pytest.mark.parametrize(
    "url", ["http://h", "redis://:sec/ret@h:6379/0", "redis://:sec?ret@h", "redis://h:99999", "redis://:12/ret@h"]
)
def test_what_can_be_no_redis_is_said_without_repeating_it(url: str) -> None:
    fault = redis_fault(url)
    assert fault is not None
    assert not any(part in fault for part in ("sec", "ret", "12", "99999"))


@pytest.mark.parametrize("url", ["mysql://u:sec@h/db", "postgresql://u:sec/ret@h/db", "postgresql://u:sec%zz@h/db"])
def test_what_libpq_cant_read_is_refused_without_its_own_words(url: str) -> None:
    with pytest.raises(ValueError, match=r"^the URL of the event log isn't one that PostgreSQL's library can read$"):
        read_url(url)
