"""The store of model versions: immutable directories that appear whole or not at all.

    root/<model>/<version>/manifest.json and the files it lists
    root/.publishing/next                a version on its way; no reader looks there
    root/.lock                           held while publishing

Not here: what makes a file a model (``models.publishing``), and running one (``models.loading``).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from models.errors import ArtifactCorrupt, InvalidManifest, InvalidName, VersionExists, VersionNotFound
from models.filesystem import FileSystem
from models.manifest import MANIFEST_FILE, FileDigest, Manifest, ModelVersion, check_name

_STAGING: Final = ".publishing"
_STAGED: Final = "next"
LOCK_FILE: Final = ".lock"
"""Whoever moves or adds versions holds this."""


class Registry:
    """Versions under ``root``. Readers need no lock; publishers wait for each other."""

    def __init__(self, root: Path, *, filesystem: FileSystem | None = None) -> None:
        self.root = root
        self._fs = filesystem or FileSystem()

    def publish(self, manifest: Manifest, files: Mapping[str, Path | bytes]) -> Manifest:
        """Makes a version of these files, and returns its manifest once that would survive a loss of power.

        If the same version is there already, its own manifest is returned and nothing is written. Provenance doesn't
        count for that: publishing the same files, signature, golden examples and flags again, later or from elsewhere,
        is the same version, and the first publication's provenance stands. Other content raises ``VersionExists``.
        Bytes that aren't those of the manifest raise ``ArtifactCorrupt``.
        """
        if files.keys() != {file.path for file in manifest.files}:
            raise InvalidManifest(f"files: the manifest lists other files than {sorted(files)}")
        self._make_root()
        with self._fs.lock(self.root / LOCK_FILE):
            self._sweep()
            present = self._present(manifest)
            if present is not None:
                self._sync_entry(present)  # its publisher may have died before it did this
                return present
            staged = self.root / _STAGING / _STAGED
            try:
                self._stage(staged, manifest, files)
                self._reveal(staged, manifest)
            except Exception:
                self._discard(staged)
                raise
        return manifest

    def versions(self) -> list[ModelVersion]:
        """Every version, sorted by name. Directories that no publication made are not versions."""
        return [
            ModelVersion(model, version)
            for model in self._fs.names(self.root)
            if _is_name("model", model)
            for version in self._fs.names(self.root / model)
            if _is_name("version", version) and MANIFEST_FILE in self._fs.names(self.root / model / version)
        ]

    def directory(self, model: str, version: str) -> Path:
        """Where a version's files are. Raises ``VersionNotFound``, and ``InvalidName`` for what can't be a name."""
        directory = self._path(ModelVersion(check_name("model", model), check_name("version", version)))
        if MANIFEST_FILE not in self._fs.names(directory):
            raise VersionNotFound(f"there is no {model}@{version} in the store")
        return directory

    def manifest(self, model: str, version: str) -> Manifest:
        """A version's manifest. Raises ``VersionNotFound`` and ``InvalidManifest``; reads no other file."""
        raw = self._fs.read(self.directory(model, version) / MANIFEST_FILE)
        try:
            manifest = Manifest.from_bytes(raw)
        except InvalidManifest as error:
            raise InvalidManifest(f"{model}@{version}: {error}") from error
        if manifest.name != (model, version):
            raise InvalidManifest(f"{model}@{version}: the manifest calls itself {manifest.name}")
        return manifest

    def verify(self, model: str, version: str) -> Manifest:
        """A version's manifest, after every file was read and found as published. Raises ``ArtifactCorrupt``."""
        manifest = self.manifest(model, version)
        directory = self._path(manifest.name)
        self._verify_files(directory, manifest)
        listed = {file.path for file in manifest.files} | {MANIFEST_FILE}
        for name in self._fs.names(directory):
            if name not in listed:
                raise ArtifactCorrupt(f"{manifest.name}: '{name}' isn't in the manifest")
        return manifest

    def _path(self, name: ModelVersion) -> Path:
        return self.root / name.model / name.version

    def _make_root(self) -> None:
        missing = [path for path in (self.root, *self.root.parents) if not path.exists()]
        for path in reversed(missing):
            self._fs.make_directory(path)
            self._fs.sync(path.parent)

    def _sweep(self) -> None:
        """Removes what publishers left that died. Whoever holds the lock is the only publisher alive."""
        for name in self._fs.names(self.root / _STAGING):
            self._fs.remove_tree(self.root / _STAGING / name)

    def _discard(self, staged: Path) -> None:
        """Tidies up after a failure, as far as that goes: the next publisher sweeps anyway."""
        try:
            if staged.name in self._fs.names(staged.parent):
                self._fs.remove_tree(staged)
        except OSError:
            pass

    def _present(self, manifest: Manifest) -> Manifest | None:
        try:
            present = self.manifest(manifest.model, manifest.version)
        except VersionNotFound:
            return None
        if not present.same_content(manifest):
            raise VersionExists(
                f"{manifest.name} is taken by other content ({present.digest}, not {manifest.digest}): "
                f"versions never change, choose another version name"
            )
        return present

    def _stage(self, staged: Path, manifest: Manifest, files: Mapping[str, Path | bytes]) -> None:
        self._fs.make_directory(staged.parent)
        self._fs.make_directory(staged)
        for name, content in [*files.items(), (MANIFEST_FILE, manifest.to_bytes())]:
            self._fs.write(staged / name, content)
            self._fs.sync(staged / name)
        self._fs.sync(staged)
        self._verify_files(staged, manifest)

    def _reveal(self, staged: Path, manifest: Manifest) -> None:
        target = self._path(manifest.name)
        self._fs.make_directory(target.parent)
        self._fs.rename(staged, target)
        self._sync_entry(manifest)

    def _sync_entry(self, manifest: Manifest) -> None:
        self._fs.sync(self._path(manifest.name).parent)
        self._fs.sync(self.root)
        self._fs.sync(self.root.parent)  # the store itself may be new, and its maker may have died

    def _verify_files(self, directory: Path, manifest: Manifest) -> None:
        for file in manifest.files:
            fault = self._fault(directory / file.path, file)
            if fault is not None:
                raise ArtifactCorrupt(f"{manifest.name}: '{file.path}' {fault}")

    def _fault(self, path: Path, file: FileDigest) -> str | None:
        try:
            sha256, size = self._fs.digest(path)
        except FileNotFoundError:
            return f"is missing; sha256:{file.sha256} was published"
        if (sha256, size) == (file.sha256, file.size_bytes):
            return None
        return f"has {size} bytes with sha256:{sha256}; published were {file.size_bytes} with sha256:{file.sha256}"


def _is_name(what: str, name: str) -> bool:
    try:
        check_name(what, name)
    except InvalidName:
        return False
    return True
