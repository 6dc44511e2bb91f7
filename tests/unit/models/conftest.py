"""Tiny models, made where they are needed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.golden import GOLDEN_FILE, Example, write_examples
from models.manifest import FileDigest, Golden, Manifest
from models.registry import Registry
from models.signature import Signature, TensorSpec


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "store")


@pytest.fixture(scope="session")
def make_onnx(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``make_onnx(nodes, inputs, outputs)``: nodes as (operator, inputs, outputs), tensors as (name, type, shape)."""
    from onnx import helper, save

    def make(
        nodes: Sequence[tuple[str, Sequence[str], Sequence[str]]],
        inputs: Sequence[tuple[str, int, Sequence[Any]]],
        outputs: Sequence[tuple[str, int, Sequence[Any]]],
        *,
        ir_version: int = 8,
        opsets: Sequence[tuple[str, int]] = (("", 17),),
    ) -> Path:
        graph = helper.make_graph(
            [helper.make_node(operator, list(takes), list(gives)) for operator, takes, gives in nodes],
            "tiny",
            [helper.make_tensor_value_info(*tensor) for tensor in inputs],
            [helper.make_tensor_value_info(*tensor) for tensor in outputs],
        )
        sets = [helper.make_opsetid(*opset) for opset in opsets]
        path = tmp_path_factory.mktemp("onnx") / "tiny.onnx"
        save(helper.make_model(graph, opset_imports=sets, ir_version=ir_version), path)
        return path

    return make


@pytest.fixture(scope="session")
def sum_onnx(make_onnx: Callable[..., Path]) -> Path:
    """``y = a + b``, FP32 [-1, 2], batched."""
    tensor = [(name, 1, ["batch", 2]) for name in ("a", "b", "y")]
    return make_onnx([("Add", ["a", "b"], ["y"])], tensor[:2], tensor[2:])


@pytest.fixture(scope="session")
def make_pt2(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``make_pt2(forward, *example inputs)``: exports a function; every first dimension is one variable size."""
    import torch

    def make(forward: Callable[..., Any], *inputs: Any, dynamic: bool = True, dims: Any = None) -> Path:
        class Tiny(torch.nn.Module):
            def forward(self, *args: Any) -> Any:
                return forward(*args)

        batch = dims or torch.export.Dim("batch", min=1, max=64)
        shapes = {"args": tuple({0: batch} for _ in inputs)} if dynamic else None
        path = tmp_path_factory.mktemp("pt2") / "tiny.pt2"
        torch.export.save(torch.export.export(Tiny().eval(), inputs, dynamic_shapes=shapes), path)
        return path

    return make


@pytest.fixture(scope="session")
def double_pt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``{"twice": 2 * x, "top": argmax}`` of ``x`` FP32 [-1, 3], batched, with a weight."""
    import torch

    class Double(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.two = torch.nn.Parameter(torch.tensor([2.0]))

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"twice": x * self.two, "top": x.argmax(dim=-1)}

    shapes = {"x": {0: torch.export.Dim("batch", min=1, max=64)}}
    path = tmp_path_factory.mktemp("pt2") / "double.pt2"
    torch.export.save(torch.export.export(Double().eval(), (torch.zeros(2, 3),), dynamic_shapes=shapes), path)
    return path


@pytest.fixture(scope="session")
def make_version() -> Callable[..., tuple[Manifest, dict[str, Path | bytes]]]:
    """``make_version(model, version, artifact)``: a manifest and files that fit together; the artifact needn't run."""
    signature = Signature(
        inputs=(TensorSpec("x", "FP32", (-1, 2)),), outputs=(TensorSpec("y", "FP32", (-1, 2)),), batched=True
    )
    ones = np.ones((1, 2), dtype=np.float32)

    def make(
        model: str = "m", version: str = "v1", artifact: bytes = b"weights", **fields: Any
    ) -> tuple[Manifest, dict[str, Path | bytes]]:
        contents = {GOLDEN_FILE: write_examples([Example((ones,), (ones,))], signature), "model.onnx": artifact}
        manifest = Manifest(
            model=model,
            version=version,
            backend="onnxruntime",
            files=tuple(
                FileDigest(name, hashlib.sha256(raw).hexdigest(), len(raw)) for name, raw in sorted(contents.items())
            ),
            signature=signature,
            golden=Golden(GOLDEN_FILE),
            **fields,
        )
        return manifest, dict(contents)

    return make
