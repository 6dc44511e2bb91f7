"""The key of a cached prediction: which model was asked, by which signature, and with what. Pure.

Not here: which version answered. The newest good answer of any version replaces the one before it, and the entry
says whose it is (``serving.cache.entry``).
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

import msgspec

from models.inference import Tensors
from serving.channel.messages import raw_tensors

KEY_BYTES: Final = 32

_encode = msgspec.msgpack.Encoder().encode


def cache_key(model: str, signature_digest: str, inputs: Tensors) -> bytes:
    """32 bytes that stand for these inputs to this model; ``inputs`` are in the signature's order.

    Hashed are the model, the signature and every tensor's name, datatype, shape and elements in row-major order,
    each with its length, so that no two questions run into one another. Elements count bit by bit: 0.0 and -0.0, or
    two NaNs of different bits, are different inputs. A model may tell them apart, and the price is a miss.
    """
    raw = raw_tensors(inputs)
    digest = blake2b(_encode((model, signature_digest, raw.heads)), digest_size=KEY_BYTES, person=b"holdfast key 1")
    for buffer in raw.body:
        digest.update(buffer)
    return digest.digest()
