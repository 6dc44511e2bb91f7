"""The command ``holdfast``.

Not here: what the commands do.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from models import commands as model_commands
from serving.cluster import RAY_ENVIRONMENT, StartError, check_token
from serving.serve_file import read_settings
from serving.settings import Settings, absolute

DEFAULT_CONFIG = Path("serve_config.yaml")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="holdfast", description="A fault-tolerant model-serving gateway.")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    up = subparsers.add_parser("up", help="serve on this machine until Ctrl-C")
    _config(up)
    up.set_defaults(run=_up)
    check = subparsers.add_parser("check", help="read the configuration, say whether it is right, and stop")
    _config(check)
    check.set_defaults(run=_check)
    environment = subparsers.add_parser(
        "env", help="print the environment that Ray wants before `ray start` or `serve run`, for a shell to eval"
    )
    environment.set_defaults(run=_environment)
    gateways = subparsers.add_parser("gateways", help="the gateways of a running Holdfast")
    of_gateways = gateways.add_subparsers(dest="gateways_command", metavar="COMMAND", required=True)
    restart = of_gateways.add_parser("restart", help="replace them one after the other, without losing a request")
    _config(restart)
    restart.add_argument(
        "--timeout", type=float, default=600.0, metavar="SECONDS", help="how long to wait for the end (default: 600)"
    )
    restart.set_defaults(run=_restart_gateways)
    model_commands.add_parser(subparsers)
    return parser


def _config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-c",
        "--config",
        type=Path,
        metavar="FILE",
        help=f"a Serve configuration (default: {DEFAULT_CONFIG} if there is one here, else the default settings)",
    )


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        code: int = args.run(args)
    except StartError as error:
        print(f"holdfast: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return code


def _up(args: argparse.Namespace) -> int:
    settings = _settings(args.config)
    from serving.up import up

    return up(settings)


def _settings(config: Path | None) -> Settings:
    if config is None and not DEFAULT_CONFIG.exists():
        return absolute(Settings(), Path.cwd())
    return read_settings(config or DEFAULT_CONFIG)


def _check(args: argparse.Namespace) -> int:
    settings = _settings(args.config)
    if (warning := check_token(settings)) is not None:
        print(f"holdfast: {warning}", file=sys.stderr)
    models = ", ".join(f"{model.name}@{model.stable_version}" for model in settings.models) or "all of the registry"
    print(f"{args.config or 'settings'}: right; stable versions: {models}")
    return 0


def _restart_gateways(args: argparse.Namespace) -> int:
    from serving.gateways import RestartFailed, restart

    try:
        print(restart(_settings(args.config), timeout_s=args.timeout))
    except RestartFailed as error:
        print(f"holdfast: {error}", file=sys.stderr)
        return 1
    return 0


def _environment(_: argparse.Namespace) -> int:
    for name, value in RAY_ENVIRONMENT.items():
        print(f"export {name}={value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
