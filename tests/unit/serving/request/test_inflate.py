"""What is small is inflated at once, what is large or grows large in a thread, and the bound is the same."""

from __future__ import annotations

import gzip
import random
import threading

import pytest

from serving.errors import InvalidRequest, PayloadTooLarge
from serving.protocol.compression import decompress
from serving.request import inflate as module
from serving.request.inflate import AT_ONCE_MAX_BYTES, inflate

LARGE = 2 * AT_ONCE_MAX_BYTES


@pytest.mark.parametrize(
    ("plain", "beside"),
    [
        (b"x" * AT_ONCE_MAX_BYTES, False),
        (b"x" * LARGE, True),
        (random.Random(1).randbytes(LARGE), True),
    ],
    ids=["small", "what grows", "large"],
)
async def test_it_is_the_whole_body_and_the_loop_is_spared_much(
    monkeypatch: pytest.MonkeyPatch, plain: bytes, beside: bool
) -> None:
    threads: list[bool] = []

    def noting(body: bytes | memoryview, encoding: str | None, *, max_bytes: int) -> bytes | memoryview:
        threads.append(threading.current_thread() is not threading.main_thread())
        found = decompress(body, encoding, max_bytes=max_bytes)
        assert threads[-1] or len(found) <= AT_ONCE_MAX_BYTES
        return found

    monkeypatch.setattr(module, "decompress", noting)
    assert await inflate(gzip.compress(plain), "gzip", max_bytes=LARGE) == plain
    assert threads[-1] == beside


@pytest.mark.parametrize("max_bytes", [100, AT_ONCE_MAX_BYTES, LARGE])
async def test_nothing_is_inflated_beyond_the_bound(max_bytes: int) -> None:
    with pytest.raises(PayloadTooLarge, match=f"more than {max_bytes} bytes"):
        await inflate(gzip.compress(bytes(max_bytes + 1)), "gzip", max_bytes=max_bytes)
    assert len(await inflate(gzip.compress(bytes(max_bytes)), "gzip", max_bytes=max_bytes)) == max_bytes


async def test_what_is_broken_is_refused_wherever_it_is_found() -> None:
    for size in (10, LARGE):
        with pytest.raises(InvalidRequest, match="cut short"):
            await inflate(gzip.compress(bytes(size))[:-1], "gzip", max_bytes=LARGE)
