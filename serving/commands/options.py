"""What all commands that need the settings have in common.

Not here: what a configuration may hold (``serving.serve_file``, ``serving.settings``).
"""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path
from typing import Any, Final

from serving.serve_file import read_settings
from serving.settings import Settings, absolute

DEFAULT_CONFIG: Final = Path("serve_config.yaml")

Subparsers = Any  # argparse._SubParsersAction[ArgumentParser], which argparse keeps to itself


def config_option(parser: argparse.ArgumentParser) -> None:
    """Adds the option that ``settings_of`` takes."""
    parser.add_argument(
        "-c",
        "--config",
        type=Path,
        metavar="FILE",
        help=f"a Serve configuration (default: {DEFAULT_CONFIG} if there is one here, else the default settings)",
    )


def write_whatever_happens() -> None:
    """A terminal that knows no arrow gets a question mark instead of an end with a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def settings_of(config: Path | None) -> Settings:
    """Raises ``serving.cluster.StartError`` with one line."""
    if config is None and not DEFAULT_CONFIG.exists():
        return absolute(Settings(), Path.cwd())
    return read_settings(config or DEFAULT_CONFIG)
