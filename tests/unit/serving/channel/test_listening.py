"""Where a replica's end of the tensor channel listens when it isn't on the gateways' node."""

from __future__ import annotations

import asyncio
import errno
import socket

import pytest

from serving.channel.address import TcpAddress
from serving.channel.client import ChannelClient
from serving.channel.messages import PROTOCOL_VERSION, Hello
from serving.channel.runner import ModelRunner
from serving.channel.server import TensorServer
from serving.clock import SystemClock
from serving.errors import ReplicaUnavailable
from tests.fakes import DOUBLE, HeldModel

CLOCK = SystemClock()


def server(runner: ModelRunner) -> TensorServer:
    hello = Hello(PROTOCOL_VERSION, "", "m", "v1", "d")
    return TensorServer(runner, hello=hello, clock=CLOCK, max_frame_bytes=1 << 20, secret="right")


async def dial(address: TcpAddress, secret: str) -> ChannelClient:
    return await ChannelClient.connect(
        "r1",
        address,
        clock=CLOCK,
        max_frame_bytes=1 << 20,
        timeout_s=5,
        on_change=lambda _: None,
        secret=secret,
    )


async def test_it_takes_the_first_port_that_is_free_and_only_those_with_the_secret() -> None:
    runner = ModelRunner(HeldModel().run, DOUBLE, clock=CLOCK, max_waiting=8)
    there = server(runner)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        first = taken.getsockname()[1]
        at = await there.start_at_first([TcpAddress("127.0.0.1", first), TcpAddress("127.0.0.1", 0)])
        assert isinstance(at, TcpAddress)
        assert at.port not in (0, first)
    client = await dial(at, "right")
    assert client.live
    assert client._transport is not None
    assert client._transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    for secret in ("", "wrong"):
        with pytest.raises(ReplicaUnavailable):
            await dial(at, secret)
    assert client.live
    await client.close()
    await there.close()
    runner.close()
    await asyncio.sleep(0)


async def test_that_no_port_is_free_is_said() -> None:
    runner = ModelRunner(HeldModel().run, DOUBLE, clock=CLOCK, max_waiting=8)
    there = server(runner)
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use") as error:
        await there.start_at_first([TcpAddress("127.0.0.1", taken.getsockname()[1])])
    assert error.value.errno == errno.EADDRINUSE
    runner.close()
