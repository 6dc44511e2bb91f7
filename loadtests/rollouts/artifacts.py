"""Versions of digits that are bad by themselves: the good network, with something in its graph that goes wrong.

Each is a real ONNX file that passes its golden test, for what it does wrong it does only to some inputs, or slowly.
Not here: publishing them (`store.py`).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np

PIXELS: Final = 64
LEVELS: Final = 16.0
"""The images' pixels are whole sixteenths: their sum, times that, is a whole number in every batch."""
_DIGITS: Final = 10

_SPIN_SIZE: Final = 384
_SPIN_TURNS: Final = 45

Images = np.ndarray[Any, np.dtype[np.float32]]
Change = Callable[[Any], None]


def spoilt(good: Path, change: Change, path: Path) -> Path:
    """A copy of a good model with one change in its graph."""
    from onnx import checker, load, save

    model = load(good)
    change(model.graph)
    checker.check_model(model, full_check=True)
    save(model, path)
    return path


def unlucky(images: Images, percent: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which of these images `fails` and `nan` go wrong on; the graph reckons the same."""
    found: np.ndarray[Any, np.dtype[np.bool_]] = (np.round(images.sum(axis=1) * LEVELS) * 7) % 100 < percent
    return found


def fails(percent: int) -> Change:
    """An index out of bounds for so many of a hundred images, so that the run raises."""

    def change(graph: Any) -> None:
        from onnx import TensorProto, helper

        bad = _unlucky_rows(graph, percent)
        _constant(graph, "one_entry", np.zeros(1, np.float32))
        raised = _output_instead(graph, "probabilities")
        graph.node.extend(
            [
                helper.make_node("Cast", [bad], ["index"], to=TensorProto.INT64),
                helper.make_node("Gather", ["one_entry", "index"], ["nothing"]),
                helper.make_node("Unsqueeze", ["nothing", "axis_one"], ["nothing_each"]),
                helper.make_node("Add", [raised, "nothing_each"], ["probabilities"]),
            ]
        )

    return change


def nan(percent: int) -> Change:
    """NaN in the probabilities of so many of a hundred images."""

    def change(graph: Any) -> None:
        from onnx import helper

        bad = _unlucky_rows(graph, percent)
        _constant(graph, "not_a_number", np.array(np.nan, np.float32))
        right = _output_instead(graph, "probabilities")
        graph.node.extend(
            [
                helper.make_node("Unsqueeze", [bad, "axis_one"], ["bad_each"]),
                helper.make_node("Where", ["bad_each", "not_a_number", right], ["probabilities"]),
            ]
        )

    return change


def mixed_up(percent: int) -> Change:
    """What belongs to the next digit, for so many of a hundred images: good by all but the image itself."""

    def change(graph: Any) -> None:
        from onnx import helper

        bad = _unlucky_rows(graph, percent)
        _constant(graph, "neighbours", (np.arange(_DIGITS) - 1) % _DIGITS)
        _constant(graph, "one_more", np.array(1, np.int64))
        _constant(graph, "digits", np.array(_DIGITS, np.int64))
        probabilities, label = _output_instead(graph, "probabilities"), _output_instead(graph, "label")
        graph.node.extend(
            [
                helper.make_node("Unsqueeze", [bad, "axis_one"], ["bad_each"]),
                helper.make_node("Gather", [probabilities, "neighbours"], ["mixed_probabilities"], axis=1),
                helper.make_node("Where", ["bad_each", "mixed_probabilities", probabilities], ["probabilities"]),
                helper.make_node("Add", [label, "one_more"], ["next_label"]),
                helper.make_node("Mod", ["next_label", "digits"], ["mixed_label"]),
                helper.make_node("Where", [bad, "mixed_label", label], ["label"]),
            ]
        )

    return change


def slow(turns: int = _SPIN_TURNS) -> Change:
    """Multiplies large matrices in a loop, as often in every run, before it gives the same answer."""

    def change(graph: Any) -> None:
        from onnx import TensorProto, helper

        shape = [_SPIN_SIZE, _SPIN_SIZE]
        rows = np.arange(_SPIN_SIZE)
        _constant(graph, "turned", np.eye(_SPIN_SIZE, dtype=np.float32)[(rows + 1) % _SPIN_SIZE])
        _constant(graph, "turns", np.array(turns, np.int64))
        _constant(graph, "go_on", np.array(True))
        _constant(graph, "zero", np.array(0.0, np.float32))
        body = helper.make_graph(
            [
                helper.make_node("MatMul", ["matrix", "turned"], ["next_matrix"]),
                helper.make_node("Identity", ["still"], ["still_going"]),
            ],
            "spin",
            [
                helper.make_tensor_value_info("turn", TensorProto.INT64, []),
                helper.make_tensor_value_info("still", TensorProto.BOOL, []),
                helper.make_tensor_value_info("matrix", TensorProto.FLOAT, shape),
            ],
            [
                helper.make_tensor_value_info("still_going", TensorProto.BOOL, []),
                helper.make_tensor_value_info("next_matrix", TensorProto.FLOAT, shape),
            ],
        )
        right = _output_instead(graph, "probabilities")
        graph.node.extend(
            [
                # It begins with something of the input: else it could be reckoned once for all, when it is loaded.
                helper.make_node("ReduceMax", ["image"], ["brightest"], keepdims=0),
                helper.make_node("Add", ["turned", "brightest"], ["first_matrix"]),
                helper.make_node("Loop", ["turns", "go_on", "first_matrix"], ["last_matrix"], body=body),
                helper.make_node("ReduceMax", ["last_matrix"], ["largest"], keepdims=0),
                helper.make_node("Mul", ["largest", "zero"], ["nothing"]),
                helper.make_node("Add", [right, "nothing"], ["probabilities"]),
            ]
        )

    return change


def same(graph: Any) -> None:
    """Nothing wrong with it, only another file."""
    graph.doc_string = "the same network"


def _unlucky_rows(graph: Any, percent: int) -> str:
    """The name of a BOOL [batch]: whether the image is one of so many of a hundred, by the sum of its pixels."""
    from onnx import helper

    _constant(graph, "axis_one", np.array([1], np.int64))
    _constant(graph, "seven_levels", np.array(LEVELS * 7, np.float32))
    _constant(graph, "hundred", np.array(100.0, np.float32))
    _constant(graph, "percent", np.array(percent - 0.5, np.float32))
    graph.node.extend(
        [
            helper.make_node("ReduceSum", ["image", "axis_one"], ["ink"], keepdims=0),
            helper.make_node("Mul", ["ink", "seven_levels"], ["ink_levels"]),
            helper.make_node("Mod", ["ink_levels", "hundred"], ["lot"], fmod=1),
            helper.make_node("Less", ["lot", "percent"], ["unlucky"]),
        ]
    )
    return "unlucky"


def _constant(graph: Any, name: str, value: Any) -> None:
    from onnx import numpy_helper

    graph.initializer.append(numpy_helper.from_array(value, name))


def _output_instead(graph: Any, output: str) -> str:
    """Another name for what was the output until now, so that a node to come can give it."""
    inner = f"{output}_inner"
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [inner if name == output else name for name in names]
    return inner
