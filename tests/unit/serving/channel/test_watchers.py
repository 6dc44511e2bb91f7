from __future__ import annotations

import threading
from collections.abc import Mapping

import pytest

from serving.channel.address import Address, TcpAddress, UnixAddress, parse_address
from serving.channel.watchers import ReplicaProcess, Watchers
from tests.fakes import settled

HERE = UnixAddress("/run/r1.sock")
THERE = TcpAddress("10.0.0.2", 7000)


class Heard:
    def __init__(self) -> None:
        self.all: list[Mapping[str, Address]] = []

    def __call__(self, replicas: Mapping[str, Address]) -> None:
        self.all.append(replicas)


async def test_a_watcher_hears_what_is_so_and_every_change() -> None:
    watchers, heard = Watchers(), Heard()
    watchers.changed("m@v1", {"r1": HERE})
    watchers.watch("m@v1", heard)
    watchers.changed("m@v1", {"r1": HERE, "r2": THERE})
    watchers.changed("n@v1", {"r9": HERE})
    await settled()
    assert heard.all[-1] == {"r1": HERE, "r2": THERE}
    assert {"r9": HERE} not in heard.all
    assert (watchers.live("m@v1"), watchers.live("x@v1")) == (2, 0)


async def test_word_from_another_thread_is_heard_on_the_loop() -> None:
    watchers, here = Watchers(), threading.current_thread()
    threads: list[threading.Thread] = []
    watchers.watch("m@v1", lambda _: threads.append(threading.current_thread()))
    router = threading.Thread(target=watchers.changed, args=("m@v1", {"r1": HERE}))
    router.start()
    router.join()
    await settled()
    assert threads == [here, here]


async def test_who_is_forgotten_hears_no_more() -> None:
    watchers, heard = Watchers(), Heard()
    watchers.watch("m@v1", heard)
    watchers.changed("m@v1", {"r1": HERE})
    await settled()
    before = len(heard.all)
    watchers.forget("m@v1", heard)
    watchers.changed("m@v1", {"r2": THERE})
    await settled()
    assert len(heard.all) == before


@pytest.mark.parametrize("end_the_first", [True, False])
async def test_the_end_of_one_of_two_watchers_does_not_make_the_other_deaf(end_the_first: bool) -> None:
    watchers, one, other = Watchers(), Heard(), Heard()
    watchers.watch("m@v1", one)
    watchers.changed("m@v1", {"r1": HERE})
    watchers.watch("m@v1", other)
    old, new = (one, other) if end_the_first else (other, one)
    watchers.forget("m@v1", old)
    assert watchers.live("m@v1") == 1
    watchers.changed("m@v1", {"r2": THERE})
    await settled()
    assert new.all[-1] == {"r2": THERE}
    assert {"r2": THERE} not in old.all
    watchers.forget("m@v1", new)
    assert watchers.live("m@v1") == 0


async def test_replicas_are_known_by_their_process_as_long_as_serve_lists_them() -> None:
    watchers, seen = Watchers(), {"r1": ReplicaProcess(4711, "a-node"), "r2": ReplicaProcess()}
    watchers.changed("m@v1", {"r1": HERE}, seen)
    assert (watchers.processes("m@v1"), watchers.processes("x@v1")) == (seen, {})
    watchers.changed("m@v1", {})
    assert watchers.processes("m@v1") == {}
    watchers.changed("m@v1", {"r1": HERE}, seen)
    watchers.watch("m@v1", heard := Heard())
    watchers.forget("m@v1", heard)
    assert watchers.processes("m@v1") == {}


@pytest.mark.parametrize("address", [HERE, THERE, TcpAddress("::1", 1)])
def test_an_address_is_what_was_written_down(address: Address) -> None:
    assert parse_address(str(address)) == address


def test_an_ipv6_address_stands_in_brackets() -> None:
    assert str(TcpAddress("fe80::1", 7000)) == "tcp:[fe80::1]:7000"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "unix:",
        "unix:relative",
        "tcp:",
        "tcp:host",
        "tcp::1",
        "tcp:host:",
        "tcp:host:70000",
        "udp:host:1",
        "/x",
        "tcp:fe80::1:7000",
        "tcp:[host]:1",
        "tcp:[]:1",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no address of a tensor channel"):
        parse_address(text)
