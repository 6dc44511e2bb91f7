"""Runs ``.pt2`` files, programs of ``torch.export``, on the CPU.

Not here: what keeps such a file from running code of its own (``models.backends.pt2_archive``).
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch._export.serde.schema import SCHEMA_VERSION
from torch.export import ExportedProgram
from torch.export.graph_signature import TensorArgument
from torch.utils import _pytree as pytree

from models.backends.pt2_archive import data_only, program
from models.errors import IncompatibleRuntime, InferenceFailed, InvalidArtifact, InvalidSignature
from models.inference import Array
from models.signature import ANY, Signature, TensorSpec

_DATATYPES: Final = {
    torch.bool: "BOOL",
    torch.uint8: "UINT8",
    torch.uint16: "UINT16",
    torch.uint32: "UINT32",
    torch.uint64: "UINT64",
    torch.int8: "INT8",
    torch.int16: "INT16",
    torch.int32: "INT32",
    torch.int64: "INT64",
    torch.float16: "FP16",
    torch.float32: "FP32",
    torch.float64: "FP64",
    torch.bfloat16: "BF16",
}


def preflight(path: Path) -> None:
    """Compares the schema that the program was written in with the one that this torch reads."""
    written = program(path)
    version = written.get("schema_version")
    major = version.get("major") if isinstance(version, dict) else None
    if not isinstance(major, int):
        raise InvalidArtifact(f"'{path.name}' doesn't say in which schema its program is written")
    if major != SCHEMA_VERSION[0]:
        raise IncompatibleRuntime(
            f"'{path.name}' was exported by torch {written.get('torch_version', '(unknown)')} with program schema "
            f"{major}; torch {torch.__version__} on this machine reads schema {SCHEMA_VERSION[0]}"
        )


def read_signature(path: Path) -> Signature:
    """From the program's inputs and outputs.

    Inputs have the names of the parameters of ``forward``; outputs the keys of the dict it returns, else ``output_0``
    and so on. It is batched if the first dimension of every tensor is the same variable size.
    """
    exported = _open(path)
    metas = {node.name: node.meta.get("val") for node in exported.graph.nodes}
    inputs = [(name, metas[name]) for name in _input_nodes(exported)]
    outputs = [(name, metas[node]) for name, node in zip(_output_names(exported), _output_nodes(exported), strict=True)]
    return Signature(
        inputs=tuple(_spec(name, meta) for name, meta in inputs),
        outputs=tuple(_spec(name, meta) for name, meta in outputs),
        batched=_batched([meta for _, meta in inputs + outputs]),
    )


def load(path: Path, signature: Signature, *, threads: int) -> TorchBackend:
    """The model in ``path``; ``threads`` compute one run, of every torch model in this process."""
    torch.set_num_threads(threads)
    exported = _open(path)
    own = [name for name in _changed(exported) if name not in _input_nodes(exported)]
    if own or exported.graph_signature.buffers_to_mutate:
        raise InvalidArtifact(f"'{path.name}' changes its own weights or buffers while it runs")
    at = {name: index for index, name in enumerate(_output_names(exported))}
    for spec in signature.outputs:
        if spec.name not in at:
            raise InvalidSignature(f"'{path.name}' has no output '{spec.name}'")
    _accept_read_only_arrays()
    return TorchBackend(exported, signature, [at[spec.name] for spec in signature.outputs])


class TorchBackend:
    """One exported program. Tensors share their memory with the arrays that come in."""

    def __init__(self, exported: ExportedProgram, signature: Signature, order: list[int]) -> None:
        self._in_spec = exported.call_spec.in_spec
        self._inputs = _input_nodes(exported)
        # Guards are only made with example inputs at hand, of which they take the structure. Without guards a program
        # that was specialised for certain sizes would give wrong answers to others.
        exported.example_inputs = pytree.tree_unflatten([torch.empty(0)] * len(self._inputs), self._in_spec)
        # Not the module itself: its hooks compare argument trees and cost more than a small model.
        self._forward: Callable[..., Any] = exported.module().forward
        self._changed = {*_changed(exported), *exported.graph_signature.user_inputs_to_mutate.values()}
        self._flat = self._in_spec == pytree.tree_structure((tuple(self._inputs), {}))
        self._order = order
        self._bf16 = {spec.name for spec in signature.inputs if spec.datatype == "BF16"}

    def run(self, inputs: Mapping[str, Array]) -> list[Array]:
        """The outputs for these inputs, in the order of the signature."""
        try:
            with torch.inference_mode():
                outputs = pytree.tree_leaves(self._ask([self._tensor(name, inputs[name]) for name in self._inputs]))
                return [_array(outputs[at]) for at in self._order]
        except Exception as error:  # operators raise what they like; all of it means the same here
            raise InferenceFailed(f"torch: {type(error).__name__}: {error}") from error

    def _ask(self, tensors: list[torch.Tensor]) -> Any:
        if self._flat:
            return self._forward(*tensors)
        args, kwargs = pytree.tree_unflatten(tensors, self._in_spec)
        return self._forward(*args, **kwargs)

    def _tensor(self, name: str, array: Array) -> torch.Tensor:
        tensor = torch.from_numpy(array.copy() if name in self._changed else np.ascontiguousarray(array))
        return tensor.view(torch.bfloat16) if name in self._bf16 else tensor


def _array(tensor: torch.Tensor) -> Array:
    if tensor.dtype is torch.bfloat16:
        tensor = tensor.contiguous().view(torch.uint16)
    array: Array = tensor.numpy()
    return array


def _open(path: Path) -> ExportedProgram:
    archive = io.BytesIO(data_only(path))
    try:
        return torch.export.load(archive)
    except Exception as error:  # torch raises anything from KeyError to AssertionError
        raise InvalidArtifact(f"torch can't open '{path.name}': {type(error).__name__}: {error}") from error


def _changed(exported: ExportedProgram) -> set[str]:
    """The names of the graph's own inputs that it writes to, itself or through a view of them."""
    changed: set[str] = set()
    for node in exported.graph.nodes:
        for argument in _aliased(node, written=True):
            while argument.op == "call_function" and (behind := _aliased(argument, written=False)):
                argument = behind[0]  # noqa: PLW2901 - follows a chain of views to where it begins
            if argument.op == "placeholder":
                changed.add(argument.name)
    return changed


def _aliased(node: Any, *, written: bool) -> list[Any]:
    """The arguments of an operator that it writes to, or else that its result may be a view of."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return []
    values = {**dict(zip((argument.name for argument in schema.arguments), node.args, strict=False)), **node.kwargs}
    return [
        values[argument.name]
        for argument in schema.arguments
        if argument.alias_info is not None and (argument.alias_info.is_write or not written)
        if isinstance(values.get(argument.name), torch.fx.Node)
    ]


def _input_nodes(exported: ExportedProgram) -> list[str]:
    return _tensors("input", "USER_INPUT", exported.graph_signature.input_specs)


def _output_nodes(exported: ExportedProgram) -> list[str]:
    return _tensors("output", "USER_OUTPUT", exported.graph_signature.output_specs)


def _tensors(what: str, kind: str, specs: Sequence[Any]) -> list[str]:
    """The names of the graph's nodes of this kind."""
    user = [spec.arg for spec in specs if spec.kind.name == kind]
    for arg in user:
        if not isinstance(arg, TensorArgument):
            raise InvalidSignature(f"{what} '{getattr(arg, 'name', arg)}' isn't a tensor")
    return [arg.name for arg in user]


def _output_names(exported: ExportedProgram) -> list[str]:
    spec, count = exported.call_spec.out_spec, len(_output_nodes(exported))
    if spec is not None and spec.type is dict and spec.num_children == count:
        return [str(key) for key in spec.context]
    return [f"output_{index}" for index in range(count)]


def _spec(name: str, meta: Any) -> TensorSpec:
    datatype = _DATATYPES.get(meta.dtype)
    if datatype is None:
        raise InvalidSignature(f"tensor '{name}' is {meta.dtype}, which can't be served")
    return TensorSpec(name, datatype, tuple(size if isinstance(size, int) else ANY for size in meta.shape))


def _batched(metas: Sequence[Any]) -> bool:
    first = [meta.shape[0] if meta.ndim else 1 for meta in metas]
    return not any(isinstance(size, int) for size in first) and len({str(size) for size in first}) == 1


def _accept_read_only_arrays() -> None:
    """Spends torch's one warning about arrays that can't be written to: tensors from the wire are such arrays."""
    array = np.zeros(1, dtype=np.float32)
    array.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.from_numpy(array)
