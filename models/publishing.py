"""From a model file to a published version: read its signature, record its golden examples, write its manifest.

Not here: how the store keeps it (``models.registry``); where the file comes from.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import numpy as np

from models.backends import Backend, runtime
from models.errors import (
    InferenceFailed,
    InvalidArtifact,
    InvalidGolden,
    InvalidManifest,
    VersionNotFound,
)
from models.golden import (
    GOLDEN_FILE,
    Example,
    array_fault,
    check_example,
    difference,
    example_fault,
    read_examples,
    write_examples,
)
from models.golden_json import read_json_example
from models.inference import DATATYPES, Array, Tensor, numbers
from models.manifest import MANIFEST_FILE, SUFFIXES, BackendName, FileDigest, Golden, Manifest, Provenance, check_name
from models.quality import InputQuality
from models.registry import Registry
from models.signature import ANY, Signature, TensorSpec

_SEED: Final = 20
_ROWS: Final = 3
_OTHER_SIZE: Final = 8

Inputs = Mapping[str, Array]


class _Candidate(NamedTuple):
    """A file that was opened, and what it says of itself."""

    backend_name: BackendName
    backend: Backend
    signature: Signature


def publish_file(
    registry: Registry,
    path: Path,
    model: str,
    version: str,
    *,
    golden: Path | Sequence[Inputs] | None = None,
    absolute_tolerance: float = 1e-4,
    relative_tolerance: float = 1e-3,
    deterministic: bool = False,
    finite: bool = True,
    labels: Sequence[str] | None = None,
    quality: Sequence[InputQuality] = (),
    provenance: Provenance | None = None,
    extra_files: Sequence[Path] = (),
) -> Manifest:
    """Publishes the model in ``path`` (``.onnx`` or ``.pt2``) as ``model@version``.

    ``golden`` is a file with examples of inputs and outputs (``.npz`` or JSON, see ``models.golden``), which the
    model has to meet within the tolerances; or inputs alone, whose outputs are recorded now by running the model. With
    neither, small seeded random inputs are used, unless the version is there already: then its own golden examples
    are kept, so that publishing the same file again from a machine that rounds differently is still a no-op.
    ``extra_files`` are what the model file refers to, such as ONNX external data; none may have the name of a file
    that every version has. A file that says it is batched though its rows influence each other is published as not
    batched. Raises ``ModelError`` classes.
    """
    check_name("model", model)
    check_name("version", version)
    tolerance = Golden(GOLDEN_FILE, absolute_tolerance, relative_tolerance)
    backend_name = _backend_of(path)
    _check_extra_names(extra_files)
    with tempfile.TemporaryDirectory(prefix="holdfast-publish-") as folder:
        staged = _copies(Path(folder), [path, *extra_files])
        artifact = staged.pop(path.name)
        files: dict[str, Path | bytes] = {f"model{SUFFIXES[backend_name]}": artifact, **staged}
        candidate = _open(backend_name, artifact)
        if golden is None:
            golden = _published_golden(registry, model, version, _digests(files))
        examples = _examples(candidate, golden, tolerance)
        _check_examples(candidate.signature, examples, finite=finite)
        signature = _proven(candidate, examples, tolerance)
        files[GOLDEN_FILE] = write_examples(examples, signature)
        manifest = Manifest(
            model=model,
            version=version,
            backend=backend_name,
            files=_digests(files),
            signature=signature,
            golden=tolerance,
            deterministic=deterministic,
            finite=finite,
            labels=_checked_labels(labels, signature),
            quality=tuple(quality),
            provenance=provenance or Provenance(),
        )
        return registry.publish(manifest, files)


def seeded_inputs(signature: Signature) -> dict[str, Array]:
    """Small inputs that fit, the same each time: floats in 0..1, integers 0 or 1, three rows, other sizes 8."""
    random = np.random.default_rng(_SEED)
    return {spec.name: _seeded(spec, random, batched=signature.batched) for spec in signature.inputs}


def _backend_of(path: Path) -> BackendName:
    for name, suffix in SUFFIXES.items():
        if path.suffix == suffix:
            if not path.is_file():
                raise InvalidArtifact(f"there is no file '{path}'")
            return name
    raise InvalidArtifact(f"'{path.name}' doesn't end in {' or '.join(SUFFIXES.values())}")


def _check_extra_names(paths: Sequence[Path]) -> None:
    """Refuse what would take the place of a file that is made or tried out here."""
    own = {*(f"model{suffix}" for suffix in SUFFIXES.values()), GOLDEN_FILE, MANIFEST_FILE}
    for path in paths:
        if path.name in own:
            raise InvalidArtifact(f"extra file '{path.name}': a version has a file of its own by that name; rename it")


def _copies(folder: Path, paths: Sequence[Path]) -> dict[str, Path]:
    """Copies beside each other: what is tried out is exactly what will be published, and nothing around it."""
    copies: dict[str, Path] = {}
    for path in paths:
        if path.name in copies:
            raise InvalidArtifact(f"there are two files named '{path.name}'")
        if not path.is_file():
            raise InvalidArtifact(f"there is no file '{path}'")
        copies[path.name] = folder / path.name
        shutil.copyfile(path, copies[path.name])
    return copies


def _open(backend_name: BackendName, artifact: Path) -> _Candidate:
    backend = runtime(backend_name)
    backend.preflight(artifact)
    signature = backend.read_signature(artifact)
    return _Candidate(backend_name, backend.load(artifact, signature, threads=1), signature)


def _published_golden(registry: Registry, model: str, version: str, digests: Sequence[FileDigest]) -> Path | None:
    try:
        manifest = registry.manifest(model, version)
    except VersionNotFound:
        return None
    same = [file for file in manifest.files if file.path != manifest.golden.path] == list(digests)
    return registry.directory(model, version) / manifest.golden.path if same else None


def _examples(candidate: _Candidate, golden: Path | Sequence[Inputs] | None, tolerance: Golden) -> tuple[Example, ...]:
    if isinstance(golden, Path):
        examples = _read(golden, candidate.signature)
        for example in examples:
            _check(candidate, example, tolerance)
        return examples
    if golden is not None:
        return tuple(_record(candidate, inputs) for inputs in golden)
    try:
        return (_record(candidate, seeded_inputs(candidate.signature)),)
    except InferenceFailed as error:
        raise InvalidGolden(
            f"the model can't run made-up inputs; give golden examples with --golden: {error}"
        ) from error


def _read(path: Path, signature: Signature) -> tuple[Example, ...]:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InvalidGolden(f"the golden examples '{path}' can't be read: {error.strerror}") from error
    try:
        if path.suffix == ".json":
            return (read_json_example(raw, signature),)
        return read_examples(raw, signature)
    except InvalidGolden as error:
        raise InvalidGolden(f"'{path.name}': {error}") from error


def _check(candidate: _Candidate, example: Example, tolerance: Golden) -> None:
    check_example(example, candidate.backend.run, candidate.signature, tolerance)


def _record(candidate: _Candidate, inputs: Inputs) -> Example:
    signature = candidate.signature
    if inputs.keys() != {spec.name for spec in signature.inputs}:
        raise InvalidGolden(f"golden inputs: {sorted(inputs)} where the model has {[s.name for s in signature.inputs]}")
    for spec in signature.inputs:
        fault = array_fault(spec, inputs[spec.name])
        if fault is not None:
            raise InvalidGolden(f"golden inputs: '{spec.name}' {fault}")
    ordered = tuple(inputs[spec.name] for spec in signature.inputs)
    return Example(ordered, tuple(candidate.backend.run(inputs)))


def _check_examples(signature: Signature, examples: Sequence[Example], *, finite: bool) -> None:
    if not examples:
        raise InvalidGolden("there is no golden example")
    for example in examples:
        fault = example_fault(example, signature)
        if fault is not None:
            raise InvalidGolden(fault)
        for spec, array in zip(signature.outputs, example.outputs, strict=True):
            if finite and not _is_finite(spec, array):
                raise InvalidGolden(f"golden outputs: '{spec.name}' isn't finite, and the model is said to be")


def _is_finite(spec: TensorSpec, array: Array) -> bool:
    if DATATYPES[spec.datatype].kind != "float":
        return True
    return bool(np.isfinite(numbers(Tensor(spec.name, spec.datatype, array))).all())


def _proven(candidate: _Candidate, examples: Sequence[Example], tolerance: Golden) -> Signature:
    """The signature, batched only if each row alone gets the answer that it got among others."""
    signature = candidate.signature
    if not signature.batched:
        return signature
    for example in examples:
        for row in range(min(_ROWS, len(example.inputs[0]))):
            alone = {name: array[row : row + 1] for name, array in example.feed(signature).items()}
            expected = [array[row : row + 1] for array in example.outputs]
            try:
                same = difference(candidate.backend.run(alone), expected, signature, tolerance) is None
            except InferenceFailed:
                same = False
            if not same:
                return msgspec.structs.replace(signature, batched=False)
    return signature


def _checked_labels(labels: Sequence[str] | None, signature: Signature) -> tuple[str, ...] | None:
    if labels is None:
        return None
    sizes = {spec.shape[-1] for spec in signature.outputs if spec.shape and DATATYPES[spec.datatype].kind == "float"}
    if sizes and ANY not in sizes and len(labels) not in sizes:
        raise InvalidManifest(f"labels: {len(labels)} where the model's outputs have {sorted(sizes)} classes")
    return tuple(labels)


def _digests(files: Mapping[str, Path | bytes]) -> tuple[FileDigest, ...]:
    return tuple(_digest(name, files[name]) for name in sorted(files))


def _digest(name: str, content: Path | bytes) -> FileDigest:
    if isinstance(content, bytes):
        return FileDigest(name, hashlib.sha256(content).hexdigest(), len(content))
    with content.open("rb") as file:
        return FileDigest(name, hashlib.file_digest(file, "sha256").hexdigest(), file.tell())


def _seeded(spec: TensorSpec, random: np.random.Generator, *, batched: bool) -> Array:
    shape = tuple(size if size != ANY else _OTHER_SIZE for size in spec.shape)
    if batched:
        shape = (_ROWS, *shape[1:])
    datatype = DATATYPES[spec.datatype]
    if datatype.kind == "bytes":
        return np.full(shape, b"a", dtype=object)
    if spec.datatype == "BF16":
        return (random.random(shape, dtype=np.float32).view(np.uint32) >> np.uint32(16)).astype(np.uint16)
    if datatype.kind == "float":
        return random.random(shape).astype(datatype.dtype)
    return random.integers(0, 2, shape).astype(datatype.dtype)
