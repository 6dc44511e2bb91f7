"""Takes out of a ``.pt2`` archive what is data, and refuses what would run as code when it is loaded.

``torch.export.load`` unpickles example inputs, custom objects and some weights, loads compiled libraries, evaluates
expressions of symbolic sizes and guards, and writes names into generated source. So an archive is rebuilt first: plain
weights, the graph, nothing else, with every name, operator and expression checked. What comes out holds no pickle.
Not here: running the graph (``models.backends.torch_export``). This imports no torch.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from models.backends.pt2_expressions import check_guard, check_size
from models.errors import InvalidArtifact

_KEPT: Final = re.compile(
    r"archive_format|archive_version|byteorder|\.data/version|models/model\.json"
    r"|data/(weights/(weight_\d+|model_weights_config\.json)|constants/(tensor_\d+|model_constants_config\.json))"
)
_DROPPED: Final = re.compile(r"data/sample_inputs/model\.pt|\.data/serialization_id|extra/.*|.*/")
_CONFIGS: Final = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
_PROGRAM: Final = "models/model.json"
_EXAMPLE_INPUTS: Final = "data/sample_inputs/model.pt"
_NAME: Final = re.compile(r"[A-Za-z0-9_.]*")
_TREE: Final = re.compile(r"""[A-Za-z0-9_.,:\[\]{}"\\ -]*""")  # JSON of names: no quote or bracket to break out with
_OPERATOR: Final = re.compile(
    r"torch\.ops\.(aten|prims|higher_order|quantized|quantized_decomposed)"
    r"\.(?!from_file|save|load)(\w+)(\.[A-Za-z]\w*)?"
    r"|torch\.(_?sym_\w+)|math\.[a-z]\w*|_operator\.(?!attrgetter|itemgetter|methodcaller|call)[a-z]\w*"
)
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)


def data_only(path: Path) -> bytes:
    """The archive in ``path`` without anything but its graph and its weights; the same archive gives the same bytes.

    Raises ``InvalidArtifact`` for what isn't such an archive, or needs what is never loaded.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _rebuilt(_records(archive))
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RecursionError) as error:
        raise InvalidArtifact(f"'{path.name}' isn't a .pt2 archive: {error}") from error
    except InvalidArtifact as error:
        raise InvalidArtifact(f"'{path.name}': {error}") from error


def program(path: Path) -> dict[str, Any]:
    """The serialized program, as JSON has it. Raises ``InvalidArtifact``."""
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith(f"/{_PROGRAM}"))
            return _json(_PROGRAM, archive.read(name))
    except StopIteration as error:
        raise InvalidArtifact(f"'{path.name}' isn't a .pt2 archive of torch.export: it has no {_PROGRAM}") from error
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise InvalidArtifact(f"'{path.name}' isn't a .pt2 archive: {error}") from error


def _records(archive: zipfile.ZipFile) -> dict[str, bytes]:
    """The records to keep by their name below the archive's one folder."""
    records: dict[str, bytes] = {}
    for info in archive.infolist():
        name = info.filename.partition("/")[2]
        if _KEPT.fullmatch(name):
            if name in records:
                raise InvalidArtifact(f"record '{name}' stands twice in the archive")
            records[name] = archive.read(info)
        elif not _DROPPED.fullmatch(name):
            raise InvalidArtifact(
                f"record '{info.filename}' is neither a graph nor plain weights; only those are loaded"
            )
    for needed in (_PROGRAM, *_CONFIGS):
        if needed not in records:
            raise InvalidArtifact(f"it has no record '{needed}': it isn't an archive of torch.export")
    return records


def _rebuilt(records: dict[str, bytes]) -> bytes:
    for name in _CONFIGS:
        _check_plain(name, _json(name, records[name]))
    graph = _json(_PROGRAM, records[_PROGRAM])
    _clean(graph)
    # Example inputs are the one record that is always a pickle; torch takes an empty one for none.
    kept = {**records, _PROGRAM: json.dumps(graph).encode(), _EXAMPLE_INPUTS: b""}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(kept):
            archive.writestr(zipfile.ZipInfo(f"model/{name}", _EPOCH), kept[name])
    return buffer.getvalue()


def _json(name: str, raw: bytes) -> dict[str, Any]:
    try:
        value = json.loads(raw)
    except ValueError as error:
        raise InvalidArtifact(f"record '{name}' isn't JSON: {error}") from error
    if not isinstance(value, dict):
        raise InvalidArtifact(f"record '{name}' isn't a JSON object")
    return value


def _check_plain(name: str, config: dict[str, Any]) -> None:
    for node in _objects(config):
        path = node.get("path_name")
        if node.get("use_pickle") or (path is not None and not re.fullmatch(r"(weight|tensor)_\d+", str(path))):
            raise InvalidArtifact(f"record '{name}' has a pickled object, '{path}'; only plain tensors are loaded")


def _clean(graph: dict[str, Any]) -> None:
    """Checks all that torch would evaluate, and empties the notes on where each operator was in its source."""
    for node in _objects(graph):
        if "metadata" in node:
            node["metadata"] = {}
        for key, value in node.items():
            _check_field(key, value)


def _check_field(key: str, value: Any) -> None:
    if key == "guards_code":
        for guard in value:
            check_guard(str(guard))
    elif key == "forward_arg_names":
        for name in value or ():
            _check_name(str(name))
    elif not isinstance(value, str):
        return
    elif key == "expr_str":
        check_size(value)
    elif key == "name" or key.endswith("_name"):
        _check_name(value)
    elif key in ("in_spec", "out_spec"):
        if not _TREE.fullmatch(value) or "\\u" in value:
            raise InvalidArtifact(f"{key} '{value}' isn't a tree of plain names")
    elif key in ("target", "as_operator"):
        _check_operator(value)


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise InvalidArtifact(f"'{name}' isn't a name that a graph can have")


def _check_operator(target: str) -> None:
    if not _OPERATOR.fullmatch(target):
        raise InvalidArtifact(f"operator '{target}' isn't one of torch's own")


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    """Every JSON object within a JSON value."""
    if isinstance(value, dict):
        yield value
        for item in value.values():
            yield from _objects(item)
    elif isinstance(value, list):
        for item in value:
            yield from _objects(item)
