"""``/v2/holdfast/faults``: tell model replicas to fail on purpose, to stop it, and say what is in force.

Only if the setting ``faults`` allows it. The command goes to the replicas through Serve's handle, so it arrives also
while a tensor channel is cut. Not here: what faults there are (``serving.channel.faults``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

import msgspec

from serving.channel.faults import EVERY, Command, Fault, Report, misfit
from serving.errors import InvalidRequest, UnknownRoute
from serving.gateway import Gateway
from serving.ingress.bodies import read_body
from serving.ingress.http import HttpResponse, json_response
from serving.version import Version

ONE: Final = "one"
"""The replica with the smallest id: the same one each time, as long as it lives."""

ANSWER_TIMEOUT_S: Final = 5.0
"""A replica that hangs doesn't answer."""


class Order(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a POST says. ``replica`` is "all", "one" or an id."""

    model: str
    version: str | None = None
    replica: str = EVERY
    fault: Fault


class Pardon(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a DELETE says; without a model it means everyone."""

    model: str | None = None
    version: str | None = None
    replica: str = EVERY

    def __post_init__(self) -> None:
        if self.model is None and (self.version is not None or self.replica != EVERY):
            raise ValueError("model: it has to be named with `version` and `replica`")


class ReplicaFaults(msgspec.Struct, frozen=True, kw_only=True):
    """One replica in the answer. Of one that didn't answer, nobody knows what is in force."""

    model: str
    version: str
    replica: str
    meant: bool
    answered: bool
    fault: Fault | None = None
    left_s: float | None = None


class FaultsOnDemand:
    """Answers requests for faults by asking the replicas."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def answer(self, method: str, body: bytes) -> HttpResponse:
        """Raises ``UnknownRoute`` if faults aren't allowed, ``ModelNotFound``, and ``InvalidRequest``."""
        if not self._gateway.faults_allowed:
            raise UnknownRoute("faults on demand are switched off here (setting `faults`)")
        match method:
            case "POST":
                found = await self._cause(read_body(body, Order))
            case "DELETE":
                found = await self._end(read_body(body, Pardon) if body else Pardon())
            case _:
                found = await ask(self._gateway.versions, Command())
        return json_response(msgspec.json.encode(found))

    async def _cause(self, order: Order) -> list[ReplicaFaults]:
        version = self._gateway.version(order.model, order.version)
        if (fault := misfit(order.fault, version.manifest.signature)) is not None:
            raise InvalidRequest(f"fault.{fault}")
        return await ask([version], Command(replica=chosen(version, order.replica), fault=order.fault))

    async def _end(self, pardon: Pardon) -> list[ReplicaFaults]:
        if pardon.model is None:
            return await ask(self._gateway.versions, Command(replica=EVERY))
        version = self._gateway.version(pardon.model, pardon.version)
        return await ask([version], Command(replica=chosen(version, pardon.replica)))


def chosen(version: Version, wish: str) -> str:
    """The id of the one replica that is meant, or "all"."""
    ids = sorted(version.link.processes())
    if not ids:
        raise InvalidRequest(f"replica: {version.served.name} has no live replica")
    if wish == ONE:
        return ids[0]
    if wish != EVERY and wish not in ids:
        raise InvalidRequest(f"replica: {version.served.name} has no replica '{wish[:64]}', only {', '.join(ids)}")
    return wish


async def ask(versions: Iterable[Version], command: Command) -> list[ReplicaFaults]:
    """Hand a command to all replicas of these versions at the same time."""
    ordered = sorted(versions, key=lambda version: version.served.name)
    answers = await asyncio.gather(*(_ask(version, command) for version in ordered))
    return [entry for entries in answers for entry in entries]


async def _ask(version: Version, command: Command) -> list[ReplicaFaults]:
    listed = version.link.processes()
    answers = await version.link.tell_all("set_faults", msgspec.json.encode(command), within_s=ANSWER_TIMEOUT_S)
    reports = {report.replica: report for report in (msgspec.json.decode(raw, type=Report) for raw in answers)}
    return [_entry(version, name, command, reports.get(name)) for name in sorted({*listed, *reports})]


def _entry(version: Version, replica: str, command: Command, report: Report | None) -> ReplicaFaults:
    model, name = version.served.model, version.served.version
    if report is None:
        return ReplicaFaults(model=model, version=name, replica=replica, meant=command.means(replica), answered=False)
    return ReplicaFaults(
        model=model,
        version=name,
        replica=replica,
        meant=report.meant,
        answered=True,
        fault=report.fault,
        left_s=report.left_s,
    )
