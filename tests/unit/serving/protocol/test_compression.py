"""Bodies inflated within a bound, and compressed where it pays."""

from __future__ import annotations

import contextlib
import gzip
import random
import tracemalloc
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.errors import InvalidRequest, PayloadTooLarge, UnsupportedEncoding
from serving.protocol.compression import COMPRESS_MIN_BYTES, choose_encoding, compress, decompress

PLAIN = b"kelp " * 1000


def raw_deflate(body: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(body) + stream.flush()


GZIP = gzip.compress(PLAIN, mtime=0)

PACKED = [
    ("gzip", GZIP),
    ("x-gzip", GZIP),
    (" GZIP ", GZIP),
    ("deflate", zlib.compress(PLAIN)),
    ("deflate", raw_deflate(PLAIN)),
    ("identity", PLAIN),
    ("", PLAIN),
    (None, PLAIN),
]


@pytest.mark.parametrize(("encoding", "packed"), PACKED)
def test_a_body_is_unpacked_up_to_the_limit_and_no_byte_further(encoding: str | None, packed: bytes) -> None:
    assert decompress(packed, encoding, max_bytes=len(PLAIN)) == PLAIN
    assert decompress(memoryview(packed), encoding, max_bytes=len(PLAIN)) == PLAIN
    with pytest.raises(PayloadTooLarge, match=f"more than {len(PLAIN) - 1} bytes"):
        decompress(packed, encoding, max_bytes=len(PLAIN) - 1)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_bomb_is_not_inflated(encoding: str) -> None:
    zeros = bytes(50_000_000)
    bomb = gzip.compress(zeros, 9) if encoding == "gzip" else zlib.compress(zeros, 9)
    del zeros
    tracemalloc.start()
    try:
        with pytest.raises(PayloadTooLarge):
            decompress(bomb, encoding, max_bytes=100_000)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, deflate", "gzip,gzip", "x" * 5000])
def test_other_and_stacked_encodings_are_unsupported(encoding: str) -> None:
    with pytest.raises(UnsupportedEncoding, match="Content-Encoding: '") as caught:
        decompress(b"", encoding, max_bytes=10)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("encoding", "packed", "text"),
    [
        ("gzip", PLAIN, "isn't valid gzip"),
        ("gzip", b"", "cut short"),
        ("gzip", GZIP[:-1], "cut short"),
        ("gzip", GZIP[:-8] + bytes(8), "isn't valid gzip"),
        ("gzip", GZIP + b"x", "left over"),
        ("gzip", GZIP * 2, "left over"),
        ("deflate", b"\xff" * 9, "isn't valid deflate"),
        ("deflate", zlib.compress(PLAIN)[:-1], "cut short"),
        ("deflate", raw_deflate(PLAIN)[:-1], "cut short"),
    ],
)
def test_a_corrupt_body_is_invalid(encoding: str, packed: bytes, text: str) -> None:
    with pytest.raises(InvalidRequest, match=text):
        decompress(packed, encoding, max_bytes=10**6)


@given(st.binary(max_size=60), st.sampled_from(["gzip", "deflate"]))
@settings(deadline=None)
def test_random_bytes_do_no_harm(body: bytes, encoding: str) -> None:
    with contextlib.suppress(InvalidRequest, PayloadTooLarge):
        assert len(decompress(body, encoding, max_bytes=100)) <= 100


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("gzip, deflate, br", "gzip"),
        ("deflate, gzip", "gzip"),
        ("gzip;q=0.5, deflate;q=0.8", "deflate"),
        ("GZIP ; Q=1", "gzip"),
        ("*", "gzip"),
        ("gzip;q=0, *", "deflate"),
        ("gzip;q=0", None),
        ("identity", None),
        ("identity, gzip;q=0.5", None),
        ("identity;q=0.5, gzip", "gzip"),
        ("identity, gzip", "gzip"),
        ("identity;q=0", None),
        ("br, zstd", None),
        ("gzip;q=nan", None),
        ("gzip;q=7", None),
        ("gzip;q=", None),
        ("", None),
        (",;,=", None),
    ],
)
def test_the_client_chooses_the_encoding(accept: str, chosen: str | None) -> None:
    assert choose_encoding(accept) == chosen


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_response_is_compressed_if_it_pays(encoding: str) -> None:
    packed, chosen = compress(PLAIN, encoding)
    assert chosen == encoding
    assert decompress(packed, encoding, max_bytes=len(PLAIN)) == PLAIN
    small = b"a" * (COMPRESS_MIN_BYTES - 1)
    assert compress(small, encoding) == (small, None)
    noise = random.Random(1).randbytes(COMPRESS_MIN_BYTES * 2)
    assert compress(noise, encoding) == (noise, None)
    assert compress(PLAIN, None) == (PLAIN, None)
    assert compress(PLAIN, "br") == (PLAIN, None)
