"""Equal questions have equal keys, however their arrays lie in memory; different ones never share a key."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from models.inference import DATATYPES, Array, Tensor, Tensors, pack_bytes
from serving.cache.key import KEY_BYTES, cache_key

NUMERIC = sorted(DATATYPES.keys() - {"BYTES"})


@st.composite
def tensors(draw: st.DrawFn) -> Tensors:
    """One or two tensors of any datatype and shape, also without elements."""
    made = []
    for name in draw(st.sampled_from([("a",), ("b",), ("a", "b")])):
        datatype = draw(st.sampled_from(sorted(DATATYPES)))
        shape = draw(arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3))
        if datatype == "BYTES":
            count = int(np.prod(shape))
            array = np.empty(count, object)
            array[:] = draw(st.lists(st.binary(max_size=3), min_size=count, max_size=count))
            array = array.reshape(shape)
        else:
            array = draw(arrays.arrays(DATATYPES[datatype].dtype, shape))
        made.append(Tensor(name, datatype, array))
    return tuple(made)


def key_of(array: Array, datatype: str = "FP32", name: str = "x") -> bytes:
    return cache_key("m", "s", (Tensor(name, datatype, array),))


def question(model: str, signature: str, some: Tensors) -> object:
    """A question as a plain value: two are the same exactly if these are equal."""
    parts = [
        (t.name, t.datatype, t.shape, pack_bytes(t.array) if t.datatype == "BYTES" else t.array.tobytes()) for t in some
    ]
    return model, signature, parts


names = st.sampled_from(["m", "mm", "n", ""])


questions = st.tuples(names, names, tensors())


@given(questions, questions)
def test_two_questions_have_one_key_exactly_if_they_are_the_same(
    one: tuple[str, str, Tensors], other: tuple[str, str, Tensors]
) -> None:
    assert len(cache_key(*one)) == KEY_BYTES
    assert (cache_key(*one) == cache_key(*other)) == (question(*one) == question(*other))


@given(st.sampled_from(NUMERIC), st.data())
def test_how_an_array_lies_in_memory_makes_no_difference(datatype: str, data: st.DataObject) -> None:
    shape = data.draw(arrays.array_shapes(min_dims=1, max_dims=3, max_side=4))
    array = data.draw(arrays.arrays(DATATYPES[datatype].dtype, shape))
    wide = np.repeat(array, 2, axis=-1)[..., ::2]
    backwards = array[::-1].copy()[::-1]
    plain = key_of(array, datatype)
    assert key_of(np.asfortranarray(array), datatype) == plain
    assert key_of(wide, datatype) == plain
    assert key_of(backwards, datatype) == plain


def test_a_large_array_has_the_key_of_its_copy_in_another_order() -> None:
    array = np.arange(1 << 16, dtype=np.float32).reshape(256, 256)
    assert key_of(np.asfortranarray(array)) == key_of(array)
    assert key_of(array.T) != key_of(array)


def test_the_same_bytes_in_another_shape_or_datatype_are_another_question() -> None:
    array = np.arange(6, dtype="<u2")
    keys = {
        key_of(array, "UINT16"),
        key_of(array, "BF16"),
        key_of(array.reshape(2, 3), "UINT16"),
        key_of(array.reshape(3, 2), "UINT16"),
        key_of(array.reshape(1, 6), "UINT16"),
        key_of(array, "UINT16", name="y"),
    }
    assert len(keys) == 6


def test_a_model_and_its_signature_do_not_run_into_one_another() -> None:
    inputs = (Tensor("x", "FP32", np.zeros(1, np.float32)),)
    assert cache_key("ab", "c", inputs) != cache_key("a", "bc", inputs)


@pytest.mark.parametrize(("one", "other"), [([b"ab", b"c"], [b"a", b"bc"]), ([b"", b"a"], [b"a", b""])])
def test_elements_of_bytes_tensors_do_not_run_into_one_another(one: list[bytes], other: list[bytes]) -> None:
    assert key_of(np.array(one, object), "BYTES") != key_of(np.array(other, object), "BYTES")


def test_two_tensors_do_not_run_into_one_another() -> None:
    def key(a: list[int], b: list[int]) -> bytes:
        return cache_key(
            "m", "s", (Tensor("a", "INT8", np.array(a, np.int8)), Tensor("b", "INT8", np.array(b, np.int8)))
        )

    assert key([1, 2], [3]) != key([1], [2, 3])


def test_zeros_of_two_signs_and_nans_of_different_bits_are_different_inputs() -> None:
    nan, other_nan = np.array([0x7FC00000, 0x7FC00001], np.uint32).view(np.float32)
    keys = {key_of(np.array([value], np.float32)) for value in (0.0, -0.0)}
    keys |= {key_of(np.array([value])) for value in (nan, other_nan)}
    assert len(keys) == 4
    assert key_of(np.array([nan])) == key_of(np.array([nan]))


def test_a_key_is_the_same_in_every_process_and_release() -> None:
    """Another value here means that nothing that was cached before is found any more: say so in the changelog."""
    inputs = (Tensor("x", "FP32", np.array([[1.0, 2.0]], np.float32)), Tensor("t", "BYTES", np.array([b"hi"], object)))
    assert (
        cache_key("digits", "0" * 64, inputs).hex()
        == "c531f1e862afd74c139577d4b326cef9ef7cf61977ff32ce0bf80c8c764e75cb"
    )
