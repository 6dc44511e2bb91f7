"""What the example models are trained, checked and asked with.

Not here: the models themselves (``models.zoo.digits``, ``models.zoo.orientation``).
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from models.inference import Array

DIGIT_LABELS: Final = tuple("0123456789")
_SEED: Final = 20
_HELD_OUT: Final = 450
_LARGEST_PIXEL: Final = 16.0

_SHORT_SIDE: Final = 256
_CROP: Final = 224
_MEAN: Final = np.array([0.485, 0.456, 0.406], dtype=np.float32)
_DEVIATION: Final = np.array([0.229, 0.224, 0.225], dtype=np.float32)


class Split(NamedTuple):
    """Images FP32 [n, 64] in 0..1, row by row from the top left, and digits INT64 [n]."""

    train_images: Array
    train_labels: Array
    test_images: Array
    test_labels: Array


def digits_split() -> Split:
    """The 1797 handwritten digits of scikit-learn, pixel / 16, always with the same 450 held out."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(_SEED).permutation(len(labels))
    images = (pixels[order] / _LARGEST_PIXEL).astype(np.float32)
    digits = labels[order].astype(np.int64)
    return Split(images[_HELD_OUT:], digits[_HELD_OUT:], images[:_HELD_OUT], digits[:_HELD_OUT])


def orientation_input(image: Array) -> Array:
    """FP32 [1, 3, 224, 224] for ``orientation`` from one image, UINT8 [height, width, 3] in blue, green, red.

    The short side becomes 256 pixels (Lanczos), the middle 224 x 224 are kept, and each channel is normalised with
    the usual ImageNet figures in the order in which it comes. This is what the model's own package does.
    """
    import cv2

    height, width = image.shape[:2]
    scale = _SHORT_SIDE / min(height, width)
    size = round(width * scale), round(height * scale)
    resized = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_LANCZOS4))
    top, left = (size[1] - _CROP) // 2, (size[0] - _CROP) // 2
    cropped = resized[top : top + _CROP, left : left + _CROP].astype(np.float32)
    normalised = (cropped / np.float32(255) - _MEAN) / _DEVIATION
    return np.ascontiguousarray(normalised.transpose(2, 0, 1)[np.newaxis], dtype=np.float32)


def text_page() -> Array:
    """A drawn page of text, UINT8 [480, 480, 3]: upright, for ``orientation`` to look at."""
    import cv2

    page = np.full((480, 480, 3), 255, dtype=np.uint8)
    lines = ("Holdfast keeps on", "answering while", "replicas, models,", "versions and even", "machines fail it.")
    for index, line in enumerate(lines):
        cv2.putText(page, line, (24, 90 + 85 * index), cv2.FONT_HERSHEY_SIMPLEX, 1.4, (20, 20, 20), 3, cv2.LINE_AA)
    return page
