"""A folder that lives as long as its process, however that ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from serving.own_folder import LOCK, OwnFolder

DIES = """
import os, sys
from pathlib import Path
from serving.own_folder import OwnFolder
folder = OwnFolder("mine-", base=Path(sys.argv[1]))
(folder.path / "left").write_text("x")
os.kill(os.getpid(), 9)
"""


def test_it_is_there_and_then_it_is_not(tmp_path: Path) -> None:
    folder = OwnFolder("mine-", base=tmp_path)
    (folder.path / "more").mkdir()
    assert folder.path.parent == tmp_path
    folder.remove()
    assert list(tmp_path.iterdir()) == []


def test_what_the_dead_left_is_removed_and_what_others_hold_stays(tmp_path: Path) -> None:
    living = OwnFolder("mine-", base=tmp_path)
    subprocess.run([sys.executable, "-c", DIES, str(tmp_path)], check=False)
    being_made, foreign = tmp_path / "mine-new", tmp_path / "other"
    being_made.mkdir()
    foreign.mkdir()
    (foreign / LOCK).touch()
    assert len(list(tmp_path.glob("*/left"))) == 1
    folder = OwnFolder("mine-", base=tmp_path)
    assert set(tmp_path.iterdir()) == {living.path, folder.path, being_made, foreign}
    living.remove()
    folder.remove()
