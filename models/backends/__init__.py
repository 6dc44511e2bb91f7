"""What runs an artifact: one module a runtime, imported only when it is asked for.

Not here: whether the artifact is the right one (``models.loading``).
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Protocol, cast

from models.errors import IncompatibleRuntime
from models.inference import Array
from models.manifest import BackendName
from models.signature import Signature


class Backend(Protocol):
    """A loaded model. Safe to call from several threads."""

    def run(self, inputs: Mapping[str, Array]) -> list[Array]:
        """The outputs for these inputs, in the order of the signature. Raises ``InferenceFailed``."""


class Runtime(Protocol):
    """What each module here offers."""

    def preflight(self, path: Path) -> None:
        """Raises ``IncompatibleRuntime`` if this machine's runtime can't run such an artifact."""

    def read_signature(self, path: Path) -> Signature:
        """What the artifact itself says it accepts and gives. Raises ``InvalidSignature``, ``InvalidArtifact``."""

    def load(self, path: Path, signature: Signature, *, threads: int) -> Backend:
        """The model in ``path``, for answers as ``signature`` orders them. Raises ``InvalidArtifact``."""


_MODULES: Final[dict[BackendName, str]] = {
    "onnxruntime": "models.backends.onnx_runtime",
    "torch": "models.backends.torch_export",
}


def runtime(name: BackendName) -> Runtime:
    """The runtime of this name. Raises ``IncompatibleRuntime`` if its package can't be imported here."""
    try:
        return cast("Runtime", importlib.import_module(_MODULES[name]))
    except ImportError as error:
        raise IncompatibleRuntime(f"backend {name} can't be imported on this machine: {error}") from error
