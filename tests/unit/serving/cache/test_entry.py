"""An entry comes back as it was, under its own key; anything else is a miss. What is old or withdrawn isn't given."""

from __future__ import annotations

import math
import struct
from hashlib import blake2b

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.inference import Tensor
from serving.cache.entry import FORMAT, Entry, Verdict, decode_entry, encode_entry, judge

KEY = b"k" * 32
OTHER_KEY = b"l" * 32
OUTPUTS = (
    Tensor("y", "FP32", np.array([[1.5, float("nan")]], np.float32)),
    Tensor("label", "BYTES", np.array([b"seven", b""], object)),
    Tensor("none", "INT64", np.zeros((2, 0), np.int64)),
)
ENTRY = Entry("digits", "s" * 64, "v1", "d" * 64, 1_700_000_000.25, OUTPUTS)
RAW = encode_entry(ENTRY, KEY)


def test_an_entry_comes_back_as_it_was() -> None:
    found = decode_entry(RAW, KEY)
    assert found is not None
    assert msgspec.structs.replace(found, outputs=()) == msgspec.structs.replace(ENTRY, outputs=())
    for mine, theirs in zip(found.outputs, OUTPUTS, strict=True):
        assert (mine.name, mine.datatype, mine.shape) == (theirs.name, theirs.datatype, theirs.shape)
        assert mine.array.dtype == theirs.array.dtype
        np.testing.assert_array_equal(mine.array, theirs.array)


def test_the_same_entry_has_the_same_bytes_however_its_arrays_lie_in_memory() -> None:
    turned = np.arange(6, dtype=np.float32).reshape(3, 2).T
    one, other = (
        encode_entry(msgspec.structs.replace(ENTRY, outputs=(Tensor("y", "FP32", array),)), KEY)
        for array in (turned, turned.copy())
    )
    assert one == other


@given(st.integers(0, len(RAW) - 1), st.integers(1, 255))
def test_one_wrong_byte_anywhere_is_a_miss(place: int, change: int) -> None:
    torn = bytearray(RAW)
    torn[place] ^= change
    assert decode_entry(bytes(torn), KEY) is None


@given(st.integers(0, len(RAW) - 1))
def test_a_value_that_is_cut_short_is_a_miss(length: int) -> None:
    assert decode_entry(RAW[:length], KEY) is None


@given(st.binary(max_size=300))
def test_foreign_bytes_are_a_miss(raw: bytes) -> None:
    assert decode_entry(raw, KEY) is None
    assert decode_entry(RAW + raw, KEY) is None or not raw


def test_an_entry_under_another_key_is_a_miss() -> None:
    """An answer to other inputs is never given, whatever the store mixes up."""
    assert decode_entry(RAW, OTHER_KEY) is None


@given(st.binary(max_size=200), st.integers(0, 2**32 - 1))
def test_a_right_checksum_around_nonsense_is_a_miss(rest: bytes, head_bytes: int) -> None:
    body = FORMAT + struct.pack("<I", head_bytes) + rest
    raw = blake2b(body, digest_size=16, key=KEY).digest() + body
    assert decode_entry(raw, KEY) is None


def test_another_format_is_a_miss() -> None:
    body = RAW[16:].replace(FORMAT, b"HFC2", 1)
    assert decode_entry(blake2b(body, digest_size=16, key=KEY).digest() + body, KEY) is None


def verdict(
    *, age_s: float = 1.0, max_stale_s: float = 10.0, model: str = "digits", signature: str = "s" * 64
) -> Verdict:
    return judge(
        ENTRY,
        model=model,
        signature_digest=signature,
        now_wall=ENTRY.stored_wall + age_s,
        max_stale_s=max_stale_s,
        withdrawn=lambda digest: False,
    )


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        (verdict(), Verdict.USABLE),
        (verdict(age_s=0.0), Verdict.USABLE),
        (verdict(age_s=10.0), Verdict.USABLE),
        (verdict(age_s=10.25), Verdict.STALE),
        (verdict(age_s=-0.25), Verdict.STALE),
        (verdict(max_stale_s=math.nan), Verdict.STALE),
        (verdict(age_s=math.nan), Verdict.STALE),
        (verdict(model="digits-lite"), Verdict.FOREIGN),
        (verdict(signature="t" * 64), Verdict.FOREIGN),
    ],
)
def test_an_entry_is_given_only_within_its_time_and_to_its_own_question(given_: Verdict, expected: Verdict) -> None:
    assert given_ is expected


def test_a_withdrawn_version_is_known_by_its_digest() -> None:
    asked: list[str] = []

    def withdrawn(digest: str) -> bool:
        asked.append(digest)
        return True

    question = {"model": "digits", "signature_digest": "s" * 64, "now_wall": ENTRY.stored_wall, "max_stale_s": 1.0}
    assert judge(ENTRY, withdrawn=withdrawn, **question) is Verdict.WITHDRAWN  # type: ignore[arg-type]  # mixed values
    assert judge(ENTRY, withdrawn=lambda _: False, **question) is Verdict.USABLE  # type: ignore[arg-type]  # likewise
    assert asked == ["d" * 64]
