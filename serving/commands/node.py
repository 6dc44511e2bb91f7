"""``holdfast node``: Ray on this machine, as a node of a cluster, with the environment that Holdfast wants.

Not here: what runs on the cluster (``holdfast up`` with the setting ``ray_address``, or ``serve deploy``).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Final

from serving.cluster import set_ray_environment
from serving.commands.options import Subparsers

DEFAULT_PORT: Final = 6379


def add_parser(subparsers: Subparsers) -> None:
    """Adds ``node``, which sets ``run``, a function of the parsed arguments to an exit code."""
    text = "run a node of a Ray cluster on this machine until Ctrl-C"
    parser = subparsers.add_parser(
        "node",
        help=text,
        description=f"{text[0].upper()}{text[1:]}: `ray start --block` with the environment of `holdfast env`. "
        "Whoever reaches the ports of a Ray cluster can run programs on it, so its network must be a private one.",
        epilog="Words after `--` are handed on to `ray start`.",
    )
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--head", action="store_true", help="the head node, where `holdfast up` runs")
    kind.add_argument("--join", metavar="HOST:PORT", help="a further node, of the cluster whose head node is there")
    parser.add_argument(
        "--ip", required=True, metavar="ADDRESS", help="this machine's address in the network of the cluster"
    )
    parser.add_argument(
        "--port", type=int, default=DEFAULT_PORT, help=f"where the head node listens (default: {DEFAULT_PORT})"
    )
    parser.add_argument("--num-cpus", type=int, metavar="N", help="CPUs that Ray may give away (default: all)")
    parser.add_argument("words", nargs="*", metavar="-- WORD", help=argparse.SUPPRESS)
    parser.set_defaults(run=_run)


def ray_start(
    *,
    ip: str,
    join: str | None = None,
    port: int = DEFAULT_PORT,
    num_cpus: int | None = None,
    words: Sequence[str] = (),
) -> list[str]:
    """The words of ``ray``: the head node of a cluster, or a node that joins the one at ``join``."""
    found = ["start", "--block", "--disable-usage-stats", f"--node-ip-address={ip}"]
    if join is None:
        found += ["--head", f"--port={port}", "--include-dashboard=false"]
    else:
        found.append(f"--address={join}")
    if num_cpus is not None:
        found.append(f"--num-cpus={num_cpus}")
    return [*found, *words]


def _run(args: argparse.Namespace) -> int:
    words = ray_start(ip=args.ip, join=args.join, port=args.port, num_cpus=args.num_cpus, words=args.words)
    set_ray_environment()
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "ray.scripts.scripts", *words])  # noqa: S606  # no shell is meant
