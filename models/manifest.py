"""What is written down about a model version: its files, signature, golden examples and origin.

Not here: where a version is kept (``models.registry``), and the files' own contents (``models.backends``,
``models.golden``).
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple

import msgspec

from models.errors import InvalidManifest, InvalidName, ModelError
from models.quality import InputQuality, check_quality
from models.signature import Signature

BackendName = Literal["onnxruntime", "torch"]

MANIFEST_FILE: Final = "manifest.json"
SUFFIXES: Final[dict[BackendName, str]] = {"onnxruntime": ".onnx", "torch": ".pt2"}
"""The suffix of the one file that a backend opens; what else a version holds, that file refers to."""

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")
_FILE_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


def check_name(what: str, name: str) -> str:
    """``name``, if it is ``[a-z0-9][a-z0-9._-]*`` and at most 128 long; ``what`` says whose name it is.

    Such a name is one path segment on every file system, never hidden, and never ``.`` or ``..``.
    """
    if not _NAME.fullmatch(name):
        raise InvalidName(f"{what} '{name}' isn't a name: lower-case letters, digits, '.', '_' and '-', at most 128")
    return name


class ModelVersion(NamedTuple):
    """The name of a version, ``model@version`` in writing."""

    model: str
    version: str

    def __str__(self) -> str:
        return f"{self.model}@{self.version}"

    @classmethod
    def parse(cls, text: str) -> ModelVersion:
        """The version that ``text`` names. Raises ``InvalidName``."""
        model, at, version = text.partition("@")
        if not at:
            raise InvalidName(f"'{text}' isn't model@version")
        return cls(check_name("model", model), check_name("version", version))


class FileDigest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of a version: its name within the version's directory, SHA-256 in hex, and size."""

    path: str
    sha256: str
    size_bytes: int

    def __post_init__(self) -> None:
        if not _FILE_NAME.fullmatch(self.path) or self.path == MANIFEST_FILE:
            raise InvalidManifest(f"path: '{self.path}' isn't a plain file name within the version's directory")
        if not _SHA256.fullmatch(self.sha256):
            raise InvalidManifest(f"sha256: '{self.sha256}' of '{self.path}' isn't 64 lower-case hex digits")
        if self.size_bytes < 0:
            raise InvalidManifest(f"size_bytes: {self.size_bytes} of '{self.path}' is negative")


class Golden(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the golden examples are, and how far an answer may be from them.

    A float passes if ``|answer - expected| <= absolute_tolerance + relative_tolerance * |expected|``; everything else
    has to be equal.
    """

    path: str
    absolute_tolerance: float = 1e-4
    relative_tolerance: float = 1e-3

    def __post_init__(self) -> None:
        for field, value in (
            ("absolute_tolerance", self.absolute_tolerance),
            ("relative_tolerance", self.relative_tolerance),
        ):
            if not (math.isfinite(value) and value >= 0):
                raise InvalidManifest(f"golden.{field}: {value} isn't a number of at least 0")


class Provenance(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Who made a version, from what and when (``created``: RFC 3339). All of it is optional."""

    source: str | None = None
    tool: str | None = None
    created: str | None = None
    notes: str | None = None

    def __post_init__(self) -> None:
        if self.created is not None and not _is_rfc3339(self.created):
            raise InvalidManifest(f"provenance.created: '{self.created}' isn't an RFC 3339 time with an offset")


def _is_rfc3339(text: str) -> bool:
    try:
        return "T" in text and datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """Everything that is known about one version.

    ``deterministic``: the same inputs always give the same outputs, so an answer may be cached. ``finite``: an output
    with a NaN or an infinity in it is a wrong answer. ``labels``: the names of a classifier's classes, in order.
    ``quality``: what values its inputs should have; of an input that isn't there, nothing is said.
    A field added later needs a default that keeps the meaning of manifests without it: defaults aren't written, so
    that old manifests keep their digests.
    """

    model: str
    version: str
    backend: BackendName
    files: tuple[FileDigest, ...]
    signature: Signature
    golden: Golden
    deterministic: bool = False
    finite: bool = True
    labels: tuple[str, ...] | None = None
    quality: tuple[InputQuality, ...] = ()
    provenance: Provenance = Provenance()

    def __post_init__(self) -> None:
        check_name("model", self.model)
        check_name("version", self.version)
        paths = [file.path for file in self.files]
        if paths != sorted(paths):
            raise InvalidManifest("files: they aren't in the order of their paths")
        for path, count in Counter(path.lower() for path in paths).items():
            if count > 1:
                raise InvalidManifest(f"files: '{path}' stands there {count} times")
        if self.golden.path not in paths:
            raise InvalidManifest(f"golden.path: '{self.golden.path}' isn't among the files")
        if sum(path.endswith(SUFFIXES[self.backend]) for path in paths) != 1:
            raise InvalidManifest(f"files: backend {self.backend} needs exactly one {SUFFIXES[self.backend]} file")
        if self.labels is not None and (not self.labels or len(set(self.labels)) != len(self.labels)):
            raise InvalidManifest("labels: they must be at least one, and all different")
        check_quality(self.quality, self.signature)

    @property
    def name(self) -> ModelVersion:
        return ModelVersion(self.model, self.version)

    @property
    def artifact(self) -> str:
        """The name of the file that the backend opens."""
        return next(file.path for file in self.files if file.path.endswith(SUFFIXES[self.backend]))

    @property
    def digest(self) -> str:
        """The version's identity: ``sha256:<hex>`` of the canonical bytes."""
        return digest_of(self.to_bytes())

    @property
    def signature_digest(self) -> str:
        """``sha256:<hex>`` of the signature alone: versions that share it accept and give the same tensors."""
        return digest_of(_ENCODER.encode(self.signature))

    def to_bytes(self) -> bytes:
        """Canonical JSON: sorted keys, no spaces, no fields that have their default."""
        return _ENCODER.encode(self)

    @classmethod
    def from_bytes(cls, raw: bytes) -> Manifest:
        """The manifest whose canonical bytes are ``raw``; anything else raises ``InvalidManifest``.

        Bytes that say the same in another form are refused too: they would be a second identity of one version.
        """
        try:
            manifest = _DECODER.decode(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise InvalidManifest(f"the manifest can't be read: {error}") from error
        except ModelError as error:
            raise InvalidManifest(f"the manifest is impossible: {error}") from error
        if manifest.to_bytes() != raw:
            raise InvalidManifest("the manifest isn't in its canonical form: something else than publishing wrote it")
        return manifest

    def same_content(self, other: Manifest) -> bool:
        """Whether both describe the same version, whoever published it and when: provenance doesn't count."""
        return msgspec.structs.replace(self, provenance=other.provenance) == other

    def summary(self) -> dict[str, Any]:
        """The manifest as plain data for people and programs, with its digest."""
        return {"digest": self.digest, **msgspec.to_builtins(self)}


_ENCODER: Final = msgspec.json.Encoder(order="sorted")
_DECODER: Final = msgspec.json.Decoder(Manifest)


def digest_of(raw: bytes) -> str:
    """``sha256:<hex>`` of these bytes."""
    return f"sha256:{hashlib.sha256(raw).hexdigest()}"
