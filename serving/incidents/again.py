"""Sends an incident again: the request that it was, as bytes, and what the answer has to do with the first one. Pure.

Not here: sending it (``serving.commands.incidents``).
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple
from urllib.parse import quote

import msgspec
import numpy as np

from models.inference import DATATYPES, Array, Tensor, numbers
from serving.incidents.incident import TOO_LARGE, IncidentReport, KeptTensor, array_of, read_array

LENGTH_HEADER: Final = "inference-header-content-length"


class CantBeSent(Exception):
    """The incident doesn't hold all of its request. The text says why."""


class WireRequest(NamedTuple):
    path: str
    body: bytes
    headers: dict[str, str]


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """What an output was and is; None where it isn't there.

    ``changed`` of ``rows`` rows differ; without rows, they couldn't be compared. ``max_abs`` is the largest difference,
    None of what isn't numbers.
    """

    output: str
    before: str | None
    after: str | None
    same: bool
    max_abs: float | None = None
    changed: int = 0
    rows: int = 0


def request_of(incident: IncidentReport, version: str | None) -> WireRequest:
    """The request of an incident, to ``version`` of its model, or to whatever answers now. Raises ``CantBeSent``.

    Tensors go as binary, so that each bit is what it was, and come so.
    """
    of_version = f"/versions/{quote(version, safe='')}" if version else ""
    path = f"/v2/models/{quote(incident.model, safe='')}{of_version}/infer"
    if not incident.inputs:
        return _unread(incident, path)
    entries: list[dict[str, Any]] = []
    tail: list[bytes] = []
    for tensor in incident.inputs:
        if tensor.raw is None:
            why = "was too large to be kept" if tensor.left_out == TOO_LARGE else "wasn't kept, because it is private"
            raise CantBeSent(f"incident {incident.id}: input '{tensor.name}' {why}")
        size = {"binary_data_size": len(tensor.raw)}
        shape = list(tensor.shape)
        entries.append({"name": tensor.name, "datatype": tensor.datatype, "shape": shape, "parameters": size})
        tail.append(tensor.raw)
    document = {"id": f"incident-{incident.id}", "inputs": entries, "parameters": {"binary_data_output": True}}
    head = msgspec.json.encode(document)
    return WireRequest(path, b"".join((head, *tail)), {LENGTH_HEADER: str(len(head))})


def _unread(incident: IncidentReport, path: str) -> WireRequest:
    """Bytes that couldn't be read are sent as they were."""
    body = incident.body
    if body is None or body.raw is None:
        raise CantBeSent(f"incident {incident.id}: nothing of its request was kept")
    headers = {} if body.json_length is None else {LENGTH_HEADER: str(body.json_length)}
    return WireRequest(path, body.raw, headers)


def read_outputs(body: bytes, json_length: int | None) -> tuple[KeptTensor, ...]:
    """The outputs of an infer response whose tensors are binary. Raises ``ValueError``."""
    at = len(body) if json_length is None else json_length
    head = msgspec.json.decode(body[:at])
    found: list[KeptTensor] = []
    try:
        for entry in head["outputs"]:
            name, datatype, shape = str(entry["name"]), str(entry["datatype"]), tuple(map(int, entry["shape"]))
            size = int(entry["parameters"]["binary_data_size"])
            raw = body[at : at + size]
            at += size
            read_array(datatype, shape, raw)
            found.append(KeptTensor(name=name, datatype=datatype, shape=shape, raw=raw))
    except (KeyError, TypeError) as error:
        raise ValueError(f"no infer response with binary outputs: {error!r}") from None
    return tuple(found)


def differences(before: tuple[KeptTensor, ...], after: tuple[KeptTensor, ...]) -> tuple[Difference, ...]:
    """Output by output, those of before first."""
    new = {tensor.name: tensor for tensor in after}
    found = [_difference(old, new.pop(old.name, None)) for old in before]
    return (*found, *(_only(tensor, then=False) for tensor in new.values()))


def _only(tensor: KeptTensor, *, then: bool) -> Difference:
    text = shown(tensor)
    return Difference(output=tensor.name, before=text if then else None, after=None if then else text, same=False)


def _difference(old: KeptTensor, new: KeptTensor | None) -> Difference:
    if new is None:
        return _only(old, then=True)
    was, now = array_of(old), array_of(new)
    found = Difference(output=old.name, before=shown(old), after=shown(new), same=False)
    if was is None or now is None or old.datatype != new.datatype or old.shape != new.shape:
        return found
    changed = _changed_rows(was, now, old)
    return msgspec.structs.replace(
        found,
        same=not changed.any(),
        max_abs=_max_abs(old, was, now),
        changed=int(np.count_nonzero(changed)),
        rows=int(changed.size),
    )


def _changed_rows(was: Array, now: Array, like: KeptTensor) -> Array:
    unequal = np.asarray(was != now)
    if was.dtype.kind == "f":
        unequal = unequal & ~(np.isnan(was) & np.isnan(now))
    if len(like.shape) < 2:
        return unequal.reshape(-1)
    return np.asarray(unequal.any(axis=tuple(range(1, unequal.ndim))))


def _max_abs(like: KeptTensor, was: Array, now: Array) -> float | None:
    """The largest difference of two numbers; infinite if only one of two is one."""
    if DATATYPES[like.datatype].kind in ("bytes", "bool"):
        return None
    mine, theirs = (numbers(Tensor(like.name, like.datatype, array)).astype(np.float64) for array in (was, now))
    equal = (mine == theirs) | (np.isnan(mine) & np.isnan(theirs))
    with np.errstate(invalid="ignore"):
        apart = np.where(equal, 0.0, np.abs(mine - theirs))
    return float(np.where(np.isnan(apart), np.inf, apart).max(initial=0.0))


def shown(tensor: KeptTensor, most: int = 12) -> str:
    """A tensor in a line, for people: its first values."""
    form = f"{tensor.datatype} {list(tensor.shape)}"
    array = array_of(tensor)
    if array is None:
        return f"{form}: {'too large to be kept' if tensor.left_out == TOO_LARGE else 'private, not kept'}"
    values = array if tensor.datatype == "BYTES" else numbers(Tensor(tensor.name, tensor.datatype, array))
    texts = [_value(value) for value in values.reshape(-1)[:most]]
    more = f", and {values.size - most} more" if values.size > most else ""
    return f"{form}: {', '.join(texts)}{more}"


def _value(value: Any) -> str:
    if isinstance(value, bytes):
        return repr(value[:64])[1:]
    return f"{value:.6g}" if isinstance(value, np.floating) else str(value)
