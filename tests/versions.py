"""A control plane's versions without Ray: what is deployed, published and on disk, and in which order that came."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from models.manifest import ModelVersion
from models.registry import Registry
from serving.model_settings import ModelSettings
from serving.rollout.versions import VersionControl
from serving.rollout.withdrawn_file import WithdrawnFile
from serving.rollout.world import Told
from serving.routing.table import RoutingTable
from serving.routing.table_file import TableFile
from serving.settings import Settings

Event = tuple[str, str]


class FakeDeployer:
    """Deploys at once, or fails, or takes its time; and writes down what it did when."""

    def __init__(self, journal: list[Event]) -> None:
        self._journal = journal
        self.running: set[str] = set()
        self.failures: dict[str, Exception] = {}
        self.gate: asyncio.Event | None = None
        self.settings: dict[str, ModelSettings] = {}

    async def deploy(self, name: ModelVersion, settings: ModelSettings) -> None:
        self._journal.append(("deploying", str(name)))
        self.settings[str(name)] = settings
        if self.gate is not None:
            await self.gate.wait()
        self.running.add(str(name))
        if (error := self.failures.get(str(name))) is not None:
            raise error
        self._journal.append(("ready", str(name)))

    async def delete(self, name: ModelVersion) -> None:
        self._journal.append(("deleted", str(name)))
        self.running.discard(str(name))


class Rig:
    def __init__(self, folder: Path, *models: ModelSettings) -> None:
        self.registry = Registry(folder / "store")
        self.file = TableFile(folder / "run" / "1" / "routing.json")
        self.withdrawn = WithdrawnFile(folder / "withdrawn.json")
        self.models = models
        self.journal: list[Event] = []
        self.deployer = FakeDeployer(self.journal)
        self.published: list[RoutingTable] = []
        self.gateways = self.acknowledging = 2
        self.control = self.restarted()

    def restarted(self) -> VersionControl:
        """A control plane that starts with what the last one left on disk."""
        self.control = VersionControl(
            Settings(models=self.models),
            registry=self.registry,
            deployer=self.deployer,
            publish=self._publish,
            state=self.file,
            withdrawn=self.withdrawn,
        )
        return self.control

    def run_anew(self, folder: Path) -> VersionControl:
        """Everything was stopped: what starts now has no table, in a folder of its own."""
        self.file = TableFile(folder / "run" / "2" / "routing.json")
        self.deployer.running.clear()
        return self.restarted()

    async def _publish(self, table: RoutingTable, *, built: bool) -> Told:
        assert self.file.read() == table, "gateways were told of what isn't written down"
        self.published.append(table)
        self.journal.append(("published", versions_in(table)))
        return Told(table.generation, self.acknowledging, self.gateways)

    @property
    def served(self) -> str:
        """All versions of the table in force, the stable ones marked."""
        return versions_in(self.control.table)


def versions_in(table: RoutingTable) -> str:
    return " ".join(
        f"{model}@{version}{'*' if version == route.stable else ''}"
        for model, route in sorted(table.models.items())
        for version in sorted(route.versions)
    )


def asking_for(version: Any) -> bytes:
    return b'{"parameters": {"version": "%s"}}' % version.encode()
