"""``holdfast models``: the commands of ``models.commands``, on the store that the settings name.

Not here: what they do.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from models import commands
from serving.commands.options import Subparsers, config_option, settings_of


def add_parser(subparsers: Subparsers) -> None:
    commands.add_parser(subparsers, store_options=_store_options, store_of=_store_of)


def _store_options(parser: argparse.ArgumentParser) -> None:
    config_option(parser)
    parser.add_argument("--store", type=Path, metavar="DIR", help="a store (default: the one that the settings name)")


def _store_of(args: argparse.Namespace) -> Path:
    """Raises ``serving.cluster.StartError``. The settings aren't read where the store is named."""
    store: Path | None = args.store
    return settings_of(args.config).store_dir if store is None else store
