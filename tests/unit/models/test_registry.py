from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from models.errors import ArtifactCorrupt, InvalidManifest, InvalidName, VersionExists, VersionNotFound
from models.manifest import MANIFEST_FILE, Manifest, ModelVersion, Provenance
from models.registry import Registry

MakeVersion = Callable[..., tuple[Manifest, dict[str, Path | bytes]]]


def test_what_was_published_can_be_listed_read_and_verified(registry: Registry, make_version: MakeVersion) -> None:
    for model, version in (("b", "v2"), ("a", "v1"), ("b", "v1")):
        manifest, files = make_version(model, version)
        assert registry.publish(manifest, files) == manifest
        assert registry.manifest(model, version) == manifest
        assert registry.verify(model, version) == manifest
        assert (registry.directory(model, version) / "model.onnx").read_bytes() == b"weights"
    assert [str(name) for name in registry.versions()] == ["a@v1", "b@v1", "b@v2"]


def test_files_are_copied_from_paths_as_well(registry: Registry, make_version: MakeVersion, tmp_path: Path) -> None:
    source = tmp_path / "anything"
    source.write_bytes(b"weights")
    manifest, files = make_version()
    registry.publish(manifest, {**files, "model.onnx": source})
    source.write_bytes(b"changed later")
    registry.verify("m", "v1")


def test_an_empty_store_has_no_versions(registry: Registry) -> None:
    assert registry.versions() == []
    with pytest.raises(VersionNotFound, match="m@v1"):
        registry.manifest("m", "v1")


def test_publishing_the_same_again_at_another_time_changes_nothing(
    registry: Registry, make_version: MakeVersion
) -> None:
    first, files = make_version(provenance=Provenance(created="2026-01-01T00:00:00Z"))
    later, _ = make_version(provenance=Provenance(created="2026-01-02T00:00:00Z"))
    registry.publish(first, files)
    inode = (registry.directory("m", "v1") / MANIFEST_FILE).stat().st_ino
    assert registry.publish(later, files) == first
    assert (registry.directory("m", "v1") / MANIFEST_FILE).stat().st_ino == inode


@pytest.mark.parametrize("other", [{"artifact": b"other"}, {"deterministic": True}, {"labels": ("a", "b")}])
def test_a_name_that_is_taken_by_other_content_is_refused(
    registry: Registry, make_version: MakeVersion, other: dict[str, Any]
) -> None:
    first, files = make_version()
    registry.publish(first, files)
    with pytest.raises(VersionExists, match="m@v1 is taken"):
        registry.publish(*make_version(**other))
    assert registry.verify("m", "v1") == first


def test_bytes_that_are_not_the_manifests_are_never_published(registry: Registry, make_version: MakeVersion) -> None:
    manifest, files = make_version()
    with pytest.raises(ArtifactCorrupt, match=r"model\.onnx"):
        registry.publish(manifest, {**files, "model.onnx": b"WEIGHTS"})
    assert registry.versions() == []
    assert list((registry.root / ".publishing").iterdir()) == []


def test_files_and_manifest_must_list_the_same(registry: Registry, make_version: MakeVersion) -> None:
    manifest, files = make_version()
    with pytest.raises(InvalidManifest, match="files"):
        registry.publish(manifest, {**files, "surprise.bin": b""})


@pytest.mark.parametrize("damage", [b"Weights", b"weight", b"weights and more", b""])
def test_a_changed_file_is_named_with_both_digests(
    registry: Registry, make_version: MakeVersion, damage: bytes
) -> None:
    registry.publish(*make_version())
    (registry.directory("m", "v1") / "model.onnx").write_bytes(damage)
    with pytest.raises(ArtifactCorrupt) as error:
        registry.verify("m", "v1")
    text = str(error.value)
    assert "m@v1" in text
    assert "'model.onnx'" in text
    assert hashlib.sha256(damage).hexdigest() in text
    assert hashlib.sha256(b"weights").hexdigest() in text


def test_a_missing_file_is_named(registry: Registry, make_version: MakeVersion) -> None:
    registry.publish(*make_version())
    (registry.directory("m", "v1") / "model.onnx").unlink()
    with pytest.raises(ArtifactCorrupt, match=r"'model\.onnx' is missing"):
        registry.verify("m", "v1")


def test_a_file_that_nobody_published_is_named(registry: Registry, make_version: MakeVersion) -> None:
    registry.publish(*make_version())
    (registry.directory("m", "v1") / "weights.bin").write_bytes(b"external data")
    with pytest.raises(ArtifactCorrupt, match=r"'weights\.bin' isn't in the manifest"):
        registry.verify("m", "v1")


def test_an_edited_manifest_is_refused(registry: Registry, make_version: MakeVersion) -> None:
    registry.publish(*make_version())
    path = registry.directory("m", "v1") / MANIFEST_FILE
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(InvalidManifest, match="m@v1"):
        registry.manifest("m", "v1")


def test_a_version_moved_to_another_name_is_refused(registry: Registry, make_version: MakeVersion) -> None:
    registry.publish(*make_version())
    registry.directory("m", "v1").rename(registry.root / "m" / "v2")
    with pytest.raises(InvalidManifest, match="calls itself m@v1"):
        registry.manifest("m", "v2")


@pytest.mark.parametrize("name", ["..", ".publishing", "a/b", "/etc", ""])
def test_no_name_leads_out_of_the_store(registry: Registry, name: str) -> None:
    with pytest.raises(InvalidName):
        registry.directory(name, "v1")
    with pytest.raises(InvalidName):
        registry.directory("m", name)


def test_what_is_no_version_is_not_listed(registry: Registry, make_version: MakeVersion) -> None:
    registry.publish(*make_version())
    (registry.root / "m" / "v2").mkdir()
    (registry.root / "README").write_text("not a model")
    (registry.root / "m" / "notes.txt").write_text("not a version")
    assert registry.versions() == [ModelVersion("m", "v1")]
    with pytest.raises(VersionNotFound):
        registry.directory("m", "v2")


def test_an_empty_directory_in_the_way_does_not_stop_a_publication(
    registry: Registry, make_version: MakeVersion
) -> None:
    (registry.root / "m" / "v1").mkdir(parents=True)
    registry.publish(*make_version())
    registry.verify("m", "v1")


def test_of_publishers_with_different_content_one_wins_and_the_others_are_told(
    registry: Registry, make_version: MakeVersion
) -> None:
    outcomes: list[str] = []

    def publish(artifact: bytes) -> None:
        try:
            registry.publish(*make_version(artifact=artifact))
            outcomes.append("published")
        except VersionExists:
            outcomes.append("refused")

    threads = [threading.Thread(target=publish, args=(f"weights {index}".encode(),)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["published"] + ["refused"] * 5
    registry.verify("m", "v1")
