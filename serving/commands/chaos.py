"""``holdfast chaos``: hands its words on to the load tests, a program of their own that knows nothing of this one.

They aren't imported: nothing here may know them.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from typing import Final

from serving.cluster import StartError
from serving.commands.options import Subparsers

PROGRAM: Final = "loadtests"


def add_parser(subparsers: Subparsers) -> None:
    """Adds ``chaos``, which sets ``run``, a function of the parsed arguments to an exit code."""
    text = "break a Holdfast under load on purpose, and say which promises held"
    parser = subparsers.add_parser(
        "chaos",
        help=text,
        description=f"{text[0].upper()}{text[1:]}. It starts a system of its own on this machine.",
        epilog="`holdfast chaos run --help` tells what a run takes, `holdfast chaos list` the scenarios.",
    )
    parser.add_argument(
        "words", metavar="run SCENARIO [--seed N] | list | all | broken | schedule", nargs=argparse.REMAINDER
    )
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    if importlib.util.find_spec(PROGRAM) is None:
        raise StartError(f"the package {PROGRAM} isn't installed; it comes with the source, `make env` installs it")
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", f"{PROGRAM}.chaos", *args.words])  # noqa: S606  # no shell is meant
