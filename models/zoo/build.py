"""Which example models there are, and how each gets into a store.

Not here: training (``models.zoo.digits``).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Final

import numpy as np

from models.loading import load_version
from models.manifest import Manifest, ModelVersion, Provenance
from models.publishing import publish_file
from models.quality import InputQuality
from models.registry import Registry
from models.zoo import digits, orientation
from models.zoo.data import DIGIT_LABELS, Split, digits_split

_GOLDEN_ROWS: Final = 8
_DIGITS_SOURCE: Final = "the handwritten digits of scikit-learn, without the 450 held out"
_DIGITS_QUALITY: Final = (InputQuality(input="image", min=0, max=1),)
_split = functools.cache(digits_split)

Maker = Callable[[Registry, Path], str]


def build(
    registry: Registry, folder: Path, *, only: Iterable[str] | None = None, say: Callable[[str], None]
) -> list[ModelVersion]:
    """Publishes the models that the store doesn't have; returns the names of these.

    ``folder`` is for files on their way, ``only`` a choice of ``model@version``, ``say`` hears a line a model.
    """
    wanted = set(only) if only is not None else {str(name) for name in MAKERS}
    present = set(registry.versions())
    made = []
    for name, maker in MAKERS.items():
        if str(name) not in wanted:
            continue
        if name in present:
            say(f"{name} is there already")
            continue
        say(f"{name}: making it")
        say(f"{name}: {maker(registry, folder)}")
        made.append(name)
    return made


def _digits(
    name: ModelVersion, make: Callable[[Split, Path], Path], notes: str, packages: tuple[str, ...]
) -> tuple[ModelVersion, Maker]:
    def publish(registry: Registry, folder: Path) -> str:
        split = _split()
        manifest = publish_file(
            registry,
            make(split, folder),
            name.model,
            name.version,
            golden=[{"image": split.test_images[:_GOLDEN_ROWS]}, {"image": split.test_images[-1:]}],
            deterministic=True,
            labels=DIGIT_LABELS,
            quality=_DIGITS_QUALITY,
            provenance=Provenance(source=_DIGITS_SOURCE, tool=_versions(packages), notes=notes),
        )
        return f"{held_out_accuracy(registry, name):.1%} right on {len(split.test_labels)} held out, {_size(manifest)}"

    return name, publish


def held_out_accuracy(registry: Registry, name: ModelVersion) -> float:
    """The share of held-out digits that this version reads correctly."""
    split = _split()
    loaded = load_version(registry, name.model, name.version)
    label = [spec.name for spec in loaded.manifest.signature.outputs].index("label")
    return float(np.mean(loaded.run({"image": split.test_images})[label] == split.test_labels))


def _orientation(registry: Registry, _folder: Path) -> str:
    path, pages = orientation.model_file(), orientation.pages()
    manifest = publish_file(
        registry,
        path,
        "orientation",
        "v1",
        golden=[{"x": pages[:1]}, {"x": pages[1:]}],
        deterministic=True,
        labels=orientation.labels(path),
        provenance=orientation.provenance(),
    )
    return f"from {manifest.provenance.source}, {_size(manifest)}"


def _versions(packages: tuple[str, ...]) -> str:
    return ", ".join(f"{package} {package_version(package)}" for package in packages)


def _size(manifest: Manifest) -> str:
    return f"{sum(file.size_bytes for file in manifest.files) / 1024:.0f} KiB"


MAKERS: Final[dict[ModelVersion, Maker]] = dict(
    (
        _digits(ModelVersion("digits", "v1"), digits.make_v1, "A perceptron, 64-16-10.", ("torch",)),
        _digits(ModelVersion("digits", "v2"), digits.make_v2, "A perceptron, 64-96-10.", ("scikit-learn", "onnx")),
        _digits(
            ModelVersion("digits-lite", "v1"), digits.make_lite, "A logistic regression.", ("scikit-learn", "onnx")
        ),
        (ModelVersion("orientation", "v1"), _orientation),
    )
)
"""Every example model by its name, in the order in which they are made."""
