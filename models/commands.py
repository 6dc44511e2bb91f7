"""``holdfast models``: publish, list, show and verify, for people and, with ``--json``, for programs.

Not here: the command ``holdfast`` itself (``serving.cli``), and all that these commands call.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from models.errors import InvalidManifest, ModelError, VersionNotFound
from models.manifest import Manifest, ModelVersion, Provenance, check_name
from models.publishing import publish_file
from models.quality import InputQuality
from models.registry import Registry
from models.signature import TensorSpec

_Subparsers = Any  # argparse._SubParsersAction[ArgumentParser], which argparse keeps to itself


StoreOf = Callable[[argparse.Namespace], Path]
_Command = Callable[[argparse.Namespace, Registry], int]


def add_parser(
    subparsers: _Subparsers, *, store_options: Callable[[argparse.ArgumentParser], None], store_of: StoreOf
) -> None:
    """Adds ``models`` with its commands. Each sets ``run``, a function of the parsed arguments to an exit code.

    ``store_options`` adds to every command what ``store_of`` then reads out of its arguments: where the store is.
    """
    parser = subparsers.add_parser("models", help="publish, list, show and verify model versions")
    commands = parser.add_subparsers(dest="models_command", metavar="COMMAND", required=True)

    def add(name: str, function: _Command, text: str) -> argparse.ArgumentParser:
        command: argparse.ArgumentParser = commands.add_parser(
            name, help=text, description=text[0].upper() + text[1:] + "."
        )
        store_options(command)
        command.add_argument("--json", action="store_true", help="answer in JSON")
        command.set_defaults(run=run, models_run=function, store_of=store_of)
        return command

    publish = add("publish", _publish, "publish a model file as a new version")
    publish.add_argument("file", type=Path, metavar="FILE", help="a model: .onnx, or .pt2 of torch.export")
    publish.add_argument("--name", required=True, help="the model's name")
    publish.add_argument("--version", required=True, help="the new version's name")
    publish.add_argument("--golden", type=Path, metavar="FILE", help="example inputs and outputs, .npz or OIP .json")
    publish.add_argument(
        "--extra", type=Path, action="append", default=[], metavar="FILE", help="external data of FILE"
    )
    publish.add_argument("--deterministic", action="store_true", help="same inputs, same outputs: may be cached")
    publish.add_argument("--allow-non-finite", action="store_true", help="NaN and infinity are good answers")
    publish.add_argument("--labels", type=_labels, metavar="A,B,...", help="the classes of a classifier, in order")
    publish.add_argument(
        "--quality", type=Path, metavar="FILE", help="ranges of the inputs' values, .json (docs/incidents.md)"
    )
    publish.add_argument("--notes", help="words for people, kept with the version")

    add("list", _list, "list all versions")
    show = add("show", _show, "show what is known about a version, or about a model's versions")
    show.add_argument("name", metavar="MODEL[@VERSION]")
    verify = add("verify", _verify, "read every file again and compare it with what was published")
    verify.add_argument("name", metavar="MODEL[@VERSION]", nargs="?", help="default: everything in the store")


def run(args: argparse.Namespace) -> int:
    """Runs the command that was parsed. Returns 0, or 1 after one line on stderr."""
    command: _Command = args.models_run
    try:
        return command(args, Registry(args.store_of(args)))
    except (ModelError, OSError) as error:
        sys.stderr.write(f"holdfast models {args.models_command}: {error}\n")
        return 1


def _labels(text: str) -> tuple[str, ...]:
    return tuple(label.strip() for label in text.split(","))


def _publish(args: argparse.Namespace, registry: Registry) -> int:
    existed = (args.name, args.version) in registry.versions()
    manifest = publish_file(
        registry,
        args.file,
        args.name,
        args.version,
        golden=args.golden,
        deterministic=args.deterministic,
        finite=not args.allow_non_finite,
        labels=args.labels,
        quality=() if args.quality is None else read_quality(args.quality),
        provenance=Provenance(
            source=args.file.name,
            tool="holdfast models publish",
            created=datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
            notes=args.notes,
        ),
        extra_files=args.extra,
    )
    if args.json:
        return _write_json(manifest.summary())
    return _write(f"{manifest.name} {'was there already' if existed else 'published'}: {manifest.digest}")


def read_quality(path: Path) -> tuple[InputQuality, ...]:
    """The ranges that a file says, a list with an entry for each input. Raises ``InvalidManifest`` and ``OSError``."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=tuple[InputQuality, ...])
    except (ValueError, RecursionError) as error:  # msgspec's own errors, and what isn't UTF-8
        raise InvalidManifest(f"'{path.name}': {error}") from None


def _list(args: argparse.Namespace, registry: Registry) -> int:
    manifests = [registry.manifest(*name) for name in registry.versions()]
    if args.json:
        return _write_json([manifest.summary() for manifest in manifests])
    if not manifests:
        return _write(f"no versions in {registry.root}")
    width = max(len(str(manifest.name)) for manifest in manifests)
    return _write(*(f"{m.name!s:{width}}  {m.backend:11}  {_traits(m):24}  {m.digest[:19]}" for m in manifests))


def _show(args: argparse.Namespace, registry: Registry) -> int:
    manifests = [registry.manifest(*name) for name in _named(registry, args.name)]
    if args.json:
        summaries = [manifest.summary() for manifest in manifests]
        return _write_json(summaries[0] if "@" in args.name else summaries)
    return _write("\n\n".join("\n".join(_description(manifest)) for manifest in manifests))


def _verify(args: argparse.Namespace, registry: Registry) -> int:
    """Goes on after a bad version, so that one run tells about all of them."""
    names = registry.versions() if args.name is None else _named(registry, args.name)
    faults: dict[str, str | None] = {}
    for name in names:
        try:
            registry.verify(*name)
            faults[str(name)] = None
        except ModelError as error:
            faults[str(name)] = str(error)
            sys.stderr.write(f"holdfast models verify: {error}\n")
        if not args.json and faults[str(name)] is None:
            _write(f"{name} is as it was published")
    if args.json:
        _write_json([{"name": name, "ok": fault is None, "fault": fault} for name, fault in faults.items()])
    elif not names:
        _write(f"no versions in {registry.root}")
    return 1 if any(faults.values()) else 0


def _named(registry: Registry, text: str) -> list[ModelVersion]:
    """The version that ``text`` names, or all versions of the model."""
    if "@" in text:
        return [ModelVersion.parse(text)]
    check_name("model", text)
    names = [name for name in registry.versions() if name.model == text]
    if not names:
        raise VersionNotFound(f"there is no version of {text} in the store")
    return names


def _traits(manifest: Manifest) -> str:
    traits = {"batched": manifest.signature.batched, "deterministic": manifest.deterministic}
    return ", ".join(name for name, holds in traits.items() if holds) or "-"


def _description(manifest: Manifest) -> list[str]:
    golden = manifest.golden
    lines = [
        f"{manifest.name}",
        f"  digest   {manifest.digest}",
        f"  backend  {manifest.backend}; {_traits(manifest)}",
        *(f"  input    {_tensor(spec)}" for spec in manifest.signature.inputs),
        *(f"  output   {_tensor(spec)}" for spec in manifest.signature.outputs),
        *(f"  file     {file.path}, {file.size_bytes} bytes, sha256:{file.sha256}" for file in manifest.files),
        f"  golden   {golden.path}, within {golden.absolute_tolerance:g} + {golden.relative_tolerance:g} of the value",
    ]
    if manifest.labels:
        lines.append(f"  labels   {', '.join(manifest.labels)}")
    lines += [f"  quality  {entry.text()}" for entry in manifest.quality]
    origin = msgspec.structs.asdict(manifest.provenance)
    return lines + [f"  {field:8} {value}" for field, value in origin.items() if value is not None]


def _tensor(spec: TensorSpec) -> str:
    return f"{spec.name} {spec.datatype} {list(spec.shape)}"


def _write(*lines: str) -> int:
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return 0


def _write_json(value: Any) -> int:
    return _write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())
