"""The command ``holdfast``.

Not here: what the commands do.
"""

from __future__ import annotations

import argparse
import os
import sys

from serving.cluster import RAY_ENVIRONMENT, StartError, check_redaction, check_token
from serving.commands import backup, chaos, doctor, incidents, models, node, replay, rollout, status
from serving.commands.options import config_option, settings_of


class _Version(argparse.Action):
    """Prints the version and ends, like argparse's own; what it takes to know it is imported only then."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from serving.ingress.front import own_version

        print(f"holdfast {own_version()}")
        parser.exit()


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="holdfast", description="A fault-tolerant model-serving gateway.")
    parser.add_argument("--version", action=_Version, nargs=0, help="print Holdfast's version and end")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    up = subparsers.add_parser("up", help="serve on this machine until Ctrl-C")
    config_option(up)
    up.set_defaults(run=_up)
    check = subparsers.add_parser("check", help="read the configuration, say whether it is right, and stop")
    config_option(check)
    check.set_defaults(run=_check)
    environment = subparsers.add_parser(
        "env", help="print the environment that Ray wants before `ray start` or `serve run`, for a shell to eval"
    )
    environment.set_defaults(run=_environment)
    gateways = subparsers.add_parser("gateways", help="the gateways of a running Holdfast")
    of_gateways = gateways.add_subparsers(dest="gateways_command", metavar="COMMAND", required=True)
    restart = of_gateways.add_parser("restart", help="replace them one after the other, without losing a request")
    config_option(restart)
    restart.add_argument(
        "--timeout", type=float, default=600.0, metavar="SECONDS", help="how long to wait for the end (default: 600)"
    )
    restart.set_defaults(run=_restart_gateways)
    node.add_parser(subparsers)
    status.add_parser(subparsers)
    doctor.add_parser(subparsers)
    models.add_parser(subparsers)
    rollout.add_parser(subparsers)
    replay.add_parser(subparsers)
    backup.add_parsers(subparsers)
    incidents.add_parser(subparsers)
    chaos.add_parser(subparsers)
    return parser


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        code: int = args.run(args)
        sys.stdout.flush()
    except StartError as error:
        print(f"holdfast: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever read it has seen enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nor does the interpreter's last flush fail
        return 141
    return code


def _up(args: argparse.Namespace) -> int:
    settings = settings_of(args.config)
    from serving.up import up

    return up(settings)


def _check(args: argparse.Namespace) -> int:
    settings = settings_of(args.config)
    if (warning := check_token(settings)) is not None:
        print(f"holdfast: {warning}", file=sys.stderr)
    check_redaction(settings)
    stable = ", ".join(f"{model.name}@{model.stable_version}" for model in settings.models) or "all of the registry"
    print(f"{args.config or 'settings'}: right; stable versions: {stable}")
    return 0


def _restart_gateways(args: argparse.Namespace) -> int:
    from serving.gateways import RestartFailed, restart

    try:
        print(restart(settings_of(args.config), timeout_s=args.timeout))
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
