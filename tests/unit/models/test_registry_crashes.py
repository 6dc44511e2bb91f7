"""Publishing is stopped before and within every single step, by an error, by the death of the process and by a loss
of power, and each time the store holds the old versions, with the new one whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from models.errors import ArtifactCorrupt
from models.filesystem import FileSystem
from models.manifest import Manifest
from models.registry import Registry

MakeVersion = Callable[..., tuple[Manifest, dict[str, Path | bytes]]]
MOST_STEPS = 60


class Death(BaseException):
    """The process dies: not an ``Exception``, so that nothing tidies up."""


class FragileFileSystem(FileSystem):
    """Does the first ``steps`` steps and raises in the next; knows what a loss of power would take back."""

    def __init__(self, steps: int, error: type[BaseException]) -> None:
        self._left = steps
        self._error = error
        self._unsynced_files: list[Path] = []
        self._unsynced_entries: list[tuple[Path, Path | None]] = []  # (new path, where it was before)

    def allow(self, steps: int) -> None:
        """Another process goes on with the same disk, whose caches still hold what the first one didn't sync."""
        self._left = steps

    def make_directory(self, path: Path) -> None:
        self._step()
        if not path.exists():
            self._unsynced_entries.append((path, None))
        super().make_directory(path)

    def write(self, path: Path, content: Path | bytes) -> None:
        self._unsynced_files.append(path)
        self._unsynced_entries.append((path, None))
        if not self._left:
            path.write_bytes(b"hal")
        self._step()
        super().write(path, content)

    def sync(self, path: Path) -> None:
        self._step()
        self._unsynced_files = [file for file in self._unsynced_files if file != path]
        self._unsynced_entries = [entry for entry in self._unsynced_entries if entry[0].parent != path]

    def rename(self, source: Path, target: Path) -> None:
        self._step()
        super().rename(source, target)

        def moved(path: Path) -> Path:
            return target / path.relative_to(source) if path.is_relative_to(source) else path

        self._unsynced_files = [moved(file) for file in self._unsynced_files]
        self._unsynced_entries = [(moved(path), before) for path, before in self._unsynced_entries if path != source]
        self._unsynced_entries.append((target, source))

    def remove_tree(self, path: Path) -> None:
        self._step()
        super().remove_tree(path)

    def names(self, path: Path) -> list[str]:
        self._step()
        return super().names(path)

    def read(self, path: Path) -> bytes:
        self._step()
        return super().read(path)

    def digest(self, path: Path) -> tuple[str, int]:
        self._step()
        return super().digest(path)

    @contextmanager
    def lock(self, path: Path) -> Iterator[None]:
        self._step()
        with super().lock(path):
            yield

    def lose_power(self, *, entries: bool) -> None:
        """What wasn't synced is gone: bytes always, directory entries only if ``entries``: a disk may have either."""
        for file in self._unsynced_files:
            if file.exists():
                file.write_bytes(b"")
        for path, before in reversed(self._unsynced_entries if entries else []):
            if not path.exists():
                continue
            if before is not None and before.parent.exists():
                path.rename(before)
            elif path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def _step(self) -> None:
        if self._left == 0:
            if issubclass(self._error, OSError):
                self._left = -1  # only this step fails; what comes after it works
            raise self._error("stopped")
        self._left -= 1


def publish_stopped(
    root: Path, version: tuple[Manifest, dict[str, Path | bytes]], steps: int, error: type[BaseException]
) -> tuple[FragileFileSystem, bool]:
    """Publishes with a file system that stops after so many steps; says whether it came to the end before that."""
    fragile = FragileFileSystem(steps, error)
    try:
        Registry(root, filesystem=fragile).publish(*version)
    except error:
        return fragile, False
    return fragile, True


def every_step(
    tmp_path: Path, old: list[tuple[Manifest, dict[str, Path | bytes]]], run: Callable[[Path, int], bool], store: str
) -> int:
    """Calls ``run`` with a fresh store and 0, 1, 2 ... steps until it says that publishing came to its end."""
    for steps in range(MOST_STEPS):
        root = tmp_path / str(steps) / store
        for version in old:
            Registry(root).publish(*version)
        root.parents[store.count("/")].mkdir(exist_ok=True)
        if run(root, steps):
            return steps
    raise AssertionError(f"publishing takes more than {MOST_STEPS} steps")


def assert_old_or_new(root: Path, old: int, new: Manifest, *, finished: bool) -> None:
    registry = Registry(root)
    versions = registry.versions()
    assert len(versions) in ((old + 1,) if finished else (old, old + 1))
    for name in versions:
        registry.verify(*name)
    assert (new.name in versions) == (len(versions) == old + 1)


def assert_can_be_published(root: Path, version: tuple[Manifest, dict[str, Path | bytes]]) -> None:
    registry = Registry(root)
    registry.publish(*version)
    assert registry.verify(*version[0].name) == version[0]
    assert [path.name for path in root.iterdir() if path.name == ".publishing" and any(path.iterdir())] == []


@pytest.fixture(params=["empty store", "store with a sibling"])
def old(request: pytest.FixtureRequest, make_version: MakeVersion) -> list[tuple[Manifest, dict[str, Path | bytes]]]:
    return [make_version("m", "v1")] if request.param == "store with a sibling" else []


def test_the_death_of_the_publisher_at_any_step_leaves_old_or_new(
    tmp_path: Path, make_version: MakeVersion, old: list[tuple[Manifest, dict[str, Path | bytes]]]
) -> None:
    version = make_version("m", "v2", b"new weights")

    def run(root: Path, steps: int) -> bool:
        _, finished = publish_stopped(root, version, steps, Death)
        assert_old_or_new(root, len(old), version[0], finished=finished)
        assert_can_be_published(root, version)
        return finished

    assert every_step(tmp_path, old, run, "new/store") > 15


@pytest.mark.parametrize("entries", [True, False])
def test_a_loss_of_power_at_any_step_leaves_old_or_new_and_keeps_what_was_finished(
    tmp_path: Path, make_version: MakeVersion, old: list[tuple[Manifest, dict[str, Path | bytes]]], entries: bool
) -> None:
    version = make_version("m", "v2", b"new weights")

    def run(root: Path, steps: int) -> bool:
        fragile, finished = publish_stopped(root, version, steps, Death)
        fragile.lose_power(entries=entries)
        assert_old_or_new(root, len(old), version[0], finished=finished)
        assert_can_be_published(root, version)
        return finished

    every_step(tmp_path, old, run, "new/store")


def test_an_error_at_any_step_is_told_and_leaves_nothing_behind(
    tmp_path: Path, make_version: MakeVersion, old: list[tuple[Manifest, dict[str, Path | bytes]]]
) -> None:
    version = make_version("m", "v2", b"new weights")

    def run(root: Path, steps: int) -> bool:
        _, finished = publish_stopped(root, version, steps, OSError)
        assert_old_or_new(root, len(old), version[0], finished=finished)
        assert not list(root.glob(".publishing/*"))
        assert_can_be_published(root, version)
        return finished

    every_step(tmp_path, old, run, "new/store")


def test_publishing_again_makes_a_version_durable_whose_publisher_died_before_it_could(
    tmp_path: Path, make_version: MakeVersion
) -> None:
    version = make_version()

    def run(root: Path, steps: int) -> bool:
        fragile, finished = publish_stopped(root, version, steps, Death)
        fragile.allow(MOST_STEPS)
        Registry(root, filesystem=fragile).publish(*version)
        fragile.lose_power(entries=True)
        Registry(root).verify("m", "v1")
        return finished

    every_step(tmp_path, [], run, "store")


def test_what_a_dead_publisher_left_is_swept_by_the_next_one_and_never_seen(
    tmp_path: Path, make_version: MakeVersion
) -> None:
    registry = Registry(tmp_path / "store")
    registry.publish(*make_version("m", "v1"))
    left = tmp_path / "store" / ".publishing" / "next"
    left.mkdir()
    (left / "manifest.json").write_bytes(b"half")
    assert len(registry.versions()) == 1
    registry.publish(*make_version("m", "v2"))
    assert not left.exists()


def test_a_disk_that_writes_other_bytes_than_it_was_given_is_found_out(
    tmp_path: Path, make_version: MakeVersion
) -> None:
    class BadDisk(FileSystem):
        def write(self, path: Path, content: Path | bytes) -> None:
            super().write(path, b"bit rot" if path.name == "model.onnx" else content)

    registry = Registry(tmp_path / "store", filesystem=BadDisk())
    with pytest.raises(ArtifactCorrupt, match=r"model\.onnx"):
        registry.publish(*make_version())
    assert registry.versions() == []
