from __future__ import annotations

import json
import string
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import InvalidManifest, InvalidName
from models.inference import DATATYPES
from models.manifest import FileDigest, Golden, Manifest, ModelVersion, Provenance, check_name
from models.signature import Signature, TensorSpec

LETTERS = string.ascii_lowercase + string.digits
names = st.builds(str.__add__, st.sampled_from(LETTERS), st.text(LETTERS + "._-", max_size=127))
tensors = st.builds(
    TensorSpec,
    name=st.text(min_size=1, max_size=20),
    datatype=st.sampled_from(sorted(DATATYPES)),
    shape=st.lists(st.integers(-1, 2**40), max_size=4).map(tuple),
)
sides = st.lists(tensors, min_size=1, max_size=3, unique_by=lambda spec: spec.name).map(tuple)
digests = st.text("0123456789abcdef", min_size=64, max_size=64)
tolerances = st.floats(0, 1e9)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    extra = draw(
        st.lists(st.from_regex(r"[A-Za-z][a-z0-9_]{0,8}\.bin", fullmatch=True), unique_by=str.lower, max_size=3)
    )
    paths = sorted([*extra, "golden.npz", "model.onnx"])
    return Manifest(
        model=draw(names),
        version=draw(names),
        backend="onnxruntime",
        files=tuple(FileDigest(path, draw(digests), draw(st.integers(0, 2**50))) for path in paths),
        signature=Signature(draw(sides), draw(sides)),
        golden=Golden("golden.npz", draw(tolerances), draw(tolerances)),
        deterministic=draw(st.booleans()),
        finite=draw(st.booleans()),
        labels=draw(st.none() | st.lists(st.text(max_size=5), min_size=1, unique=True).map(tuple)),
        provenance=Provenance(source=draw(st.none() | st.text()), notes=draw(st.none() | st.text())),
    )


@settings(deadline=None)
@given(manifests())
def test_a_manifest_comes_back_from_its_own_bytes_with_the_same_digest(manifest: Manifest) -> None:
    again = Manifest.from_bytes(manifest.to_bytes())
    assert again == manifest
    assert again.digest == manifest.digest


@settings(deadline=None)
@given(manifests())
def test_the_same_words_in_another_form_are_refused(manifest: Manifest) -> None:
    with pytest.raises(InvalidManifest, match="canonical form"):
        Manifest.from_bytes(manifest.to_bytes() + b"\n")
    with pytest.raises(InvalidManifest, match="canonical form"):
        Manifest.from_bytes(json.dumps(json.loads(manifest.to_bytes()), indent=1).encode())


@settings(deadline=None)
@given(names, names)
def test_a_version_is_written_and_read_as_model_at_version(model: str, version: str) -> None:
    name = ModelVersion(model, version)
    assert ModelVersion.parse(str(name)) == name


@settings(deadline=None)
@given(st.text(max_size=12))
def test_only_lower_case_names_that_no_path_can_be_made_of_pass(text: str) -> None:
    good = bool(text) and text[0] in LETTERS and set(text) <= set(LETTERS + "._-")
    if good:
        assert check_name("model", text) == text
    else:
        with pytest.raises(InvalidName, match="model '"):
            check_name("model", text)


@pytest.mark.parametrize("text", ["", ".", "..", "../x", "a/b", "A", "a\n", "-a", "a" * 129, "é"])
def test_names_that_would_leave_the_store_or_differ_by_file_system_are_refused(text: str) -> None:
    with pytest.raises(InvalidName):
        check_name("version", text)


@pytest.mark.parametrize("text", ["digits", "digits@", "@v1", "a@b@c", "a/b@v1"])
def test_what_does_not_name_a_version_is_not_parsed(text: str) -> None:
    with pytest.raises(InvalidName):
        ModelVersion.parse(text)


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../x", "..", ".hidden", "a/b", "a\\b", "a\0", "manifest.json"])
def test_a_file_cannot_be_outside_the_version_or_be_its_manifest(path: str) -> None:
    with pytest.raises(InvalidManifest, match="path: "):
        FileDigest(path, "0" * 64, 1)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"files": ()}, "golden.path"),
        ({"golden": Golden("other.npz")}, "golden.path"),
        ({"backend": "torch"}, "files"),
        ({"labels": ()}, "labels"),
        ({"labels": ("a", "a")}, "labels"),
    ],
)
def test_a_manifest_that_contradicts_itself_names_the_field(
    change: dict[str, Any], field: str, make_version: Callable[..., Any]
) -> None:
    manifest: Manifest = make_version()[0]
    with pytest.raises(InvalidManifest, match=field):
        msgspec.structs.replace(manifest, **change)


def test_files_are_in_order_and_named_once_whatever_the_case_of_their_letters(make_version: Callable[..., Any]) -> None:
    manifest: Manifest = make_version()[0]
    with pytest.raises(InvalidManifest, match="order"):
        msgspec.structs.replace(manifest, files=manifest.files[::-1])
    twice = FileDigest("GOLDEN.npz", "0" * 64, 1)
    with pytest.raises(InvalidManifest, match="stands there 2 times"):
        msgspec.structs.replace(manifest, files=(twice, *manifest.files))


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_a_tolerance_is_a_finite_number_of_at_least_zero(value: float) -> None:
    with pytest.raises(InvalidManifest, match=r"golden\.relative_tolerance"):
        Golden("golden.npz", relative_tolerance=value)


@pytest.mark.parametrize("text", ["2026-01-02T03:04:05Z", "2026-01-02T03:04:05.678+01:00"])
def test_a_time_with_an_offset_is_a_creation_time(text: str) -> None:
    assert Provenance(created=text).created == text


@pytest.mark.parametrize("text", ["yesterday", "2026-01-02", "2026-01-02T03:04:05", "2026-01-02 03:04:05Z"])
def test_a_creation_time_that_is_not_rfc_3339_is_refused(text: str) -> None:
    with pytest.raises(InvalidManifest, match=r"provenance\.created"):
        Provenance(created=text)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"", "can't be read"),
        (b"\xff", "can't be read"),
        (b"[]", "can't be read"),
        (b'{"model":"m"}', "version"),
        (b'{"surprise":1}', "surprise"),
    ],
)
def test_bytes_that_are_no_manifest_say_why(raw: bytes, text: str) -> None:
    with pytest.raises(InvalidManifest, match=text):
        Manifest.from_bytes(raw)


def test_a_bad_name_inside_a_manifest_is_an_invalid_manifest(make_version: Callable[..., Any]) -> None:
    raw = make_version()[0].to_bytes().replace(b'"model":"m"', b'"model":"../m"')
    with pytest.raises(InvalidManifest, match=r"\.\./m"):
        Manifest.from_bytes(raw)


def test_provenance_changes_the_digest_but_not_the_content(make_version: Callable[..., Any]) -> None:
    first: Manifest = make_version(provenance=Provenance(created="2026-01-01T00:00:00Z"))[0]
    later: Manifest = make_version(provenance=Provenance(created="2026-01-02T00:00:00Z"))[0]
    other: Manifest = make_version(artifact=b"other weights")[0]
    assert first.digest != later.digest
    assert first.same_content(later)
    assert not first.same_content(other)
    assert first.signature_digest == other.signature_digest


def test_digests_of_manifests_that_were_published_long_ago_stay_what_they_were(
    make_version: Callable[..., Any],
) -> None:
    files = tuple(FileDigest(path, "0" * 64, 1) for path in ("golden.npz", "model.onnx"))
    manifest = msgspec.structs.replace(make_version()[0], files=files)
    assert manifest.to_bytes() == (
        b'{"backend":"onnxruntime","files":['
        b'{"path":"golden.npz","sha256":"' + b"0" * 64 + b'","size_bytes":1},'
        b'{"path":"model.onnx","sha256":"' + b"0" * 64 + b'","size_bytes":1}],'
        b'"golden":{"absolute_tolerance":0.0001,"path":"golden.npz","relative_tolerance":0.001},'
        b'"model":"m","signature":{"batched":true,"inputs":[{"datatype":"FP32","name":"x","shape":[-1,2]}],'
        b'"outputs":[{"datatype":"FP32","name":"y","shape":[-1,2]}]},"version":"v1"}'
    )
