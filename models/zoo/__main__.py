"""``python -m models.zoo [--store DIR] [--only NAME...]``: makes the example models that the store doesn't have."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from models.errors import ModelError
from models.registry import Registry
from models.zoo.build import MAKERS, build


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m models.zoo", description="Make the example models.")
    parser.add_argument("--store", type=Path, default=Path(".holdfast/models"), help="default: %(default)s")
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", choices=[str(name) for name in MAKERS], help="model@version"
    )
    options = parser.parse_args(arguments)
    began = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="holdfast-zoo-") as folder:
            build(Registry(options.store), Path(folder), only=options.only, say=_say)
    except (ModelError, OSError) as error:
        print(f"zoo: {error}", file=sys.stderr)
        return 1
    print(f"zoo: ready in {options.store} after {time.monotonic() - began:.1f} s")
    return 0


def _say(line: str) -> None:
    print(f"zoo: {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
