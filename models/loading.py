"""From a version in the store to a model that may be asked: verify, preflight, load, warm up, golden examples.

Not here: when a version is loaded, and what happens if it can't be (``serving``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from models.backends import Backend, runtime
from models.errors import GoldenMismatch, InferenceFailed, InvalidGolden
from models.golden import Example, check_example, read_examples
from models.inference import Array
from models.manifest import Manifest
from models.registry import Registry

_WARM_UP_RUNS: Final = 3


class LoadedVersion:
    """A version that can be asked. ``load_version`` makes one only if it met all of its golden examples."""

    def __init__(self, manifest: Manifest, backend: Backend, examples: tuple[Example, ...]) -> None:
        self.manifest = manifest
        self._backend = backend
        self._examples = examples

    def run(self, inputs: Mapping[str, Array]) -> list[Array]:
        """The outputs for these inputs, in the order of the signature. Raises ``InferenceFailed``."""
        return self._backend.run(inputs)

    def warm_up(self) -> None:
        """Lets the runtime allocate and choose its kernels before the first request, with inputs that it knows."""
        for _ in range(_WARM_UP_RUNS):
            for example in self._examples:
                self.run(example.feed(self.manifest.signature))

    def check_golden(self) -> None:
        """Runs the first golden example. Raises ``GoldenMismatch`` or ``InferenceFailed``: don't serve from here."""
        self._check(self._examples[0])

    def check_all_golden(self) -> None:
        """As ``check_golden``, with every example."""
        for example in self._examples:
            self._check(example)

    def _check(self, example: Example) -> None:
        try:
            check_example(example, self.run, self.manifest.signature, self.manifest.golden)
        except (GoldenMismatch, InferenceFailed) as error:
            raise type(error)(f"{self.manifest.name}: {error}") from error


def load_version(registry: Registry, model: str, version: str, *, threads: int = 1) -> LoadedVersion:
    """A version, proven to be what was published and to answer as it did then; ``threads`` compute one run.

    Raises ``VersionNotFound``, ``InvalidManifest``, ``ArtifactCorrupt``, ``IncompatibleRuntime``, ``InvalidArtifact``,
    ``InvalidGolden``, ``InferenceFailed`` or ``GoldenMismatch``. A process should load one version: torch has one
    thread count for all of them.
    """
    manifest = registry.verify(model, version)
    directory = registry.directory(model, version)
    artifact = directory / manifest.artifact
    backend = runtime(manifest.backend)
    backend.preflight(artifact)
    try:
        examples = read_examples((directory / manifest.golden.path).read_bytes(), manifest.signature)
    except InvalidGolden as error:
        raise InvalidGolden(f"{manifest.name}: {error}") from error
    loaded = LoadedVersion(manifest, backend.load(artifact, manifest.signature, threads=threads), examples)
    loaded.warm_up()
    loaded.check_all_golden()
    return loaded
