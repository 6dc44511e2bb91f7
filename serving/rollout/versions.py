"""Brings versions up and takes them down while the system runs, and publishes the table that says so.

Only a version whose replicas are ready enters the table, and a version leaves the table before its replicas end.
Not here: Ray (``serving.deployments`` hands in a ``Deployer`` and a ``Publish``), and what a rollout does to the table
(``serving.rollout.effects``, by the ways that are open to it here).
"""

from __future__ import annotations

import asyncio
import functools
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final, Protocol

import msgspec

from models.errors import InvalidName, ModelError, VersionNotFound
from models.manifest import ModelVersion
from models.registry import Registry
from serving.errors import InvalidRequest, LoadFailed, ModelNotFound, RequestError, RolloutRefused, RolloutsUnavailable
from serving.model_settings import ModelSettings, UsePriorVersion
from serving.own_thread import OwnThread
from serving.rollout.standing import Standing
from serving.rollout.whole import whole
from serving.rollout.withdrawn_file import WithdrawnFile
from serving.rollout.world import Told
from serving.routing.table import RoutingTable, loaded
from serving.routing.table_file import TableFile
from serving.settings import Settings

log = logging.getLogger("holdfast.control")


class Deployer(Protocol):
    """Starts and ends the replicas of a version."""

    async def deploy(self, name: ModelVersion, settings: ModelSettings) -> None:
        """Returns when the version's replicas are ready; raises ``LoadFailed`` with the reason if they never are."""
        ...

    async def delete(self, name: ModelVersion) -> None:
        """Returns when the version's replicas are told to end. A version that isn't there is no error."""
        ...


class Publish(Protocol):
    """Tells every gateway that lives, and waits for them for a bounded time.

    They acknowledge when they route by the table, or, if ``built``, when they also serve all that it brings.
    """

    async def __call__(self, table: RoutingTable, *, built: bool) -> Told: ...


NOTHING: Final[Mapping[str, str]] = MappingProxyType({})
UNLOADED: Final = "unloaded on request"
"""Why a version isn't served that a person took away: nothing but a person brings it back."""


class Wishes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: str | None = None
    withdraw: bool = False
    unload_dependents: bool = False  # Triton's clients send it; versions here have no dependents


class _Body(msgspec.Struct, frozen=True):
    parameters: Wishes = Wishes()


def wishes(body: bytes) -> Wishes:
    """What a load or unload body asks for; raises ``InvalidRequest``."""
    try:
        return msgspec.json.decode(body or b"{}", type=_Body).parameters
    except (ValueError, RecursionError) as error:  # msgspec's own errors, and what isn't UTF-8
        raise InvalidRequest(f"the body: {error}") from None


class VersionControl:
    """The one place that changes the routing table. Commands for one model run one after the other."""

    def __init__(
        self,
        settings: Settings,
        *,
        registry: Registry,
        deployer: Deployer,
        publish: Publish,
        state: TableFile,
        withdrawn: WithdrawnFile,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._deployer = deployer
        self._publish = publish
        self._state = state
        self._withdrawn = withdrawn
        self._table = state.read().with_withdrawn(withdrawn.read())
        self._standings: dict[str, Standing] = {}
        self._initial: dict[str, list[asyncio.Task[None]]] = {}
        self._known = asyncio.Event()
        self._locks: dict[str, asyncio.Lock] = {}
        self._writing = asyncio.Lock()
        self._writer = OwnThread("table")

    @property
    def table(self) -> RoutingTable:
        return self._table

    async def start(
        self, standings: Mapping[str, Standing] | None = None, rolled_back: Mapping[str, str] | None = None
    ) -> None:
        """Deploy what the last table, the settings and the rollouts name, but what a person has unloaded since.

        Can be done anew when it is known at last what the rollouts have come to.

        A version that fails doesn't stop the others, and is tried again when the control plane starts anew. What was
        withdrawn stays so, and what was rolled back (``model@version`` and why) isn't served: only a person takes that
        back. If nobody knows what was (None), the withdrawn tell, and another version of the model stands in, if there
        is one. Where a model stands by its last rollout counts for more than its settings, unless these call a version
        stable that the rollout knew nothing of.
        """
        self._known.clear()
        self._standings = dict(standings or {})
        marked: Mapping[str, str]
        stand_ins: Mapping[str, str]
        if rolled_back is None:
            marked, stand_ins = await asyncio.to_thread(self._told_by_withdrawn)
        else:
            marked, stand_ins = rolled_back, NOTHING
        if self._table.models and self._table != self._state.read():  # something withdrawn is news to the gateways
            await self._change(msgspec.structs.replace)
        there = [ModelVersion(*name) for name in loaded(self._table)]
        wanted = {name: False for name in there if str(name) not in marked and not self._given_up(name)}
        unwanted = {name for name in there if str(name) in marked}
        for model in await asyncio.to_thread(initial_models, self._settings, self._registry):
            stable, where = self._stable_version(model), self._standings.get(model.name)
            stable = stand_ins.get(model.name, stable)
            needed = where.needed if where is not None and not where.gives_way_to(stable) else ()
            for version in dict.fromkeys((stable, *needed, *model.versions)):
                name = ModelVersion(model.name, version)
                if str(name) in marked:
                    unwanted.add(name)
                elif version == model.stable_version and where is not None and self._replaced(name):
                    if not self._given_up(name) and str(name) not in self._table.unavailable:
                        await self._change(
                            functools.partial(_without, name=name, reason=replaced_because(where.stable))
                        )
                elif self._table.unavailable.get(str(name)) != UNLOADED and not self._given_up(name):
                    wanted[name] = wanted.get(name, False) or version == stable
        telling = asyncio.create_task(self._tell_what_comes(list(wanted)))
        for name, make_stable in wanted.items():
            task = asyncio.create_task(self._load_initially(name, make_stable=make_stable, told=telling))
            self._initial.setdefault(name.model, []).append(task)
        for name in sorted(unwanted):
            loads = list(self._initial.get(name.model, ()))
            task = asyncio.create_task(self._keep_back(name, rolled_back_because(marked[str(name)]), loads))
            self._initial.setdefault(name.model, []).append(task)
        self._known.set()
        await asyncio.gather(telling, *(task for tasks in self._initial.values() for task in tasks))

    async def _tell_what_comes(self, wanted: Sequence[ModelVersion]) -> None:
        """So that the gateways ask those to come again who ask for what isn't up yet."""

        def expecting(table: RoutingTable) -> RoutingTable:
            there = loaded(table)
            return table.expecting(str(name) for name in wanted if name not in there)

        if expecting(self._table) is not self._table:
            await self._change(expecting, built=False)

    async def _keep_back(self, name: ModelVersion, reason: str, loads: list[asyncio.Task[None]]) -> None:
        """A version that was rolled back isn't served, and what it has answered isn't given any more.

        After a start without the event log it may be the stable one: then it goes when another is there to answer.
        """
        route = self._table.models.get(name.model)
        if route is not None and route.stable == name.version and loads:
            await asyncio.wait(loads)
        versions = self._versions_of(name.model)
        if versions.keys() == {name.version}:
            log.error("%s is served, though it was %s: there is no other version of it", name, reason)
            return
        if name.version in versions or self._table.unavailable.get(str(name)) != reason:
            await self._change(functools.partial(_without, name=name, reason=reason, withdraw=True))
        if (where := self._standings.get(name.model)) is None or where.settled:  # else its rollout ends them
            async with self._lock(name.model):
                await self._deployer.delete(name)

    async def started(self, model: str) -> None:
        """Returns when it is known of every version of the model whether it has come up."""
        await self._known.wait()
        if tasks := self._initial.get(model):
            await asyncio.wait(tasks)

    def _told_by_withdrawn(self) -> tuple[dict[str, str], dict[str, str]]:
        """What is known to be rolled back without the event log, and by model what stands in for a stable one. Blocks.

        A version that is the only one of its model isn't counted: it is better than none.
        """
        reasons = {digest: why for digest, why in self._table.withdrawn.items() if is_rolled_back(why)}
        if not reasons:
            return {}, {}
        there = self._registry.versions()
        marked = {str(name): reasons[digest] for name in there if (digest := self._digest(name)) in reasons}
        stand_ins: dict[str, str] = {}
        for model in initial_models(self._settings, self._registry):
            stable = f"{model.name}@{model.stable_version}"
            if stable not in marked:
                continue
            known = [name.version for name in there if name.model == model.name and str(name) not in marked]
            if known:
                stand_ins[model.name] = in_place_of(model, known)
            else:
                log.error("%s is served, though it was %s: the store has no other version", stable, marked.pop(stable))
        return marked, stand_ins

    def _digest(self, name: ModelVersion) -> str:
        try:
            return self._registry.manifest(*name).digest
        except (ModelError, OSError):  # nor can it be served
            return ""

    def _stable_version(self, model: ModelSettings) -> str:
        where = self._standings.get(model.name)
        named = self._settings.model(model.name)
        if where is None or where.gives_way_to(named.stable_version if named is not None else None):
            return model.stable_version
        return where.stable

    def stands(self, model: str, where: Standing) -> None:
        """A rollout has come to this."""
        self._standings[model] = where

    def called_for(self, name: ModelVersion) -> bool:
        """Whether the settings need this version whatever becomes of it in a rollout: as a fallback or a shadow."""
        model = self._settings.model(name.model)
        if model is None:
            return False
        shadow = model.shadow is not None and model.shadow.model is None and model.shadow.version == name.version
        return shadow or UsePriorVersion(version=name.version) in model.fallback

    def _replaced(self, name: ModelVersion) -> bool:
        """Whether the last rollout has put the other one of its two versions in the place of this one."""
        where = self._standings.get(name.model)
        if where is None or name.version not in where.versions:
            return False
        return name.version not in where.needed and not self.called_for(name)

    def _given_up(self, name: ModelVersion) -> bool:
        """Whether a rollout that goes on is about to end this version, or will say itself when to bring it up."""
        where = self._standings.get(name.model)
        return where is not None and not where.settled and self._replaced(name)

    async def bring_up(self, name: ModelVersion) -> None:
        """Deploy a version beside those that are served, and serve it to those who ask for it by name.

        If it was withdrawn, it is so no more. Raises ``ModelNotFound`` and ``LoadFailed``.
        """
        async with self._lock(name.model):
            await self._load(name, make_stable=False)

    async def change(self, change: Callable[[RoutingTable], RoutingTable]) -> Told:
        """Write the changed table down and tell the gateways; tell them again if it is changed already.

        Waits for no other command, and finishes also if whoever asked for it doesn't wait any more. Raises what
        ``change`` raises; then nothing was changed.
        """
        return await self._change(change, built=False)

    async def end(self, name: ModelVersion, *, reason: str) -> None:
        """Take a version out of the table, if it is still there, and end its replicas."""
        async with self._lock(name.model):
            if name.version in self._versions_of(name.model):
                await self._change(functools.partial(_without, name=name, reason=reason))
            await self._deployer.delete(name)

    async def load(
        self, model: str, body: bytes = b"", *, rolled_back: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        """Deploy a version, by default the registry's highest, and serve it. Loading a loaded version is no error.

        The version that the settings call stable answers by default again once it is back. If it was withdrawn, it is
        so no more. One that was ``rolled_back`` comes back by a rollout only. Raises ``ModelNotFound``, ``LoadFailed``,
        ``RolloutRefused``, and ``RolloutsUnavailable`` if it can't be written down.
        """
        asked = wishes(body)
        if asked.withdraw:
            raise InvalidRequest("the body: parameters.withdraw goes with unload only")
        wish = asked.version
        async with self._lock(model):
            version = await asyncio.to_thread(self._highest, model, rolled_back) if wish is None else wish
            if (reason := rolled_back.get(f"{model}@{version}")) is not None:
                raise RolloutRefused(
                    f"{model}@{version} was {rolled_back_because(reason)}; if it is well now, start a rollout of it "
                    f"(`holdfast rollout start`)"
                )
            named = self._settings.model(model)
            make_stable = named is not None and self._stable_version(named) == version
            try:
                await self._load(ModelVersion(model, version), make_stable=make_stable)
            except OSError as error:
                if version not in self._versions_of(model):
                    await self._deployer.delete(ModelVersion(model, version))
                raise _unwritten(error) from None

    async def unload(self, model: str, body: bytes = b"") -> None:
        """Stop serving a version, by default all of the model, and end its replicas.

        Raises ``ModelNotFound``, and ``RolloutsUnavailable`` if it can't be written down.

        ``withdraw`` takes back what it has answered, too: no cached answer of it is given any more.
        """
        asked = wishes(body)
        wish = asked.version
        async with self._lock(model):
            route = self._table.models.get(model)
            if route is None or (wish is not None and wish not in route.versions):
                raise ModelNotFound(f"'{model}@{wish}' isn't loaded" if wish else f"'{model}' isn't loaded")
            versions = list(route.versions) if wish is None else [wish]
            try:
                for version in versions:
                    await self._take_down(ModelVersion(model, version), reason=UNLOADED, withdraw=asked.withdraw)
            except OSError as error:
                raise _unwritten(error) from None

    def _lock(self, model: str) -> asyncio.Lock:
        return self._locks.setdefault(model, asyncio.Lock())

    async def _load_initially(self, name: ModelVersion, *, make_stable: bool, told: asyncio.Task[None]) -> None:
        """``told`` ends when the table says that this version is coming: if it doesn't, that has to be unsaid."""
        try:
            async with self._lock(name.model):
                await self._load(name, make_stable=make_stable, initial=True)
        except RequestError as error:
            log.error("%s isn't served: %s", name, error.message)
        except Exception:
            log.exception("%s isn't served", name)
        if name not in loaded(self._table):
            await asyncio.wait([told])
        if str(name) in self._table.coming:
            await self._change(lambda table: table.expecting(set(table.coming) - {str(name)}), built=False)

    async def _load(self, name: ModelVersion, *, make_stable: bool, initial: bool = False) -> None:
        """Verify, deploy, and only then serve; what fails is taken away again and the reason kept.

        By an ``initial`` load what was withdrawn stays so: no person has asked for it.
        """
        model, version = name
        try:
            manifest = await asyncio.to_thread(self._registry.verify, model, version)
            settings = self._settings.model(model) or ModelSettings(name=model, versions=(version,))
            await self._deployer.deploy(name, settings)
        except (VersionNotFound, InvalidName) as error:
            raise ModelNotFound(str(error)) from None
        except (ModelError, LoadFailed, OSError) as error:
            reason = str(error) or f"{type(error).__name__} while its replicas were started"
            if version not in self._versions_of(model):
                await self._take_down(name, reason=reason)
            raise LoadFailed(f"{name} can't be loaded: {reason}") from None
        digest = manifest.digest
        if self._versions_of(model).get(version) == digest and (initial or digest not in self._table.withdrawn):
            await self._publish(self._table, built=True)
            return

        def served(table: RoutingTable) -> RoutingTable:
            if initial and self._given_up(name):
                return table  # while it came up, its rollout has ended
            return table.with_version(model, version, digest, stable=make_stable, still_withdrawn=initial)

        await self._change(served)

    async def _take_down(self, name: ModelVersion, *, reason: str, withdraw: bool = False) -> None:
        """First out of the table, then its replicas: a call to a version that ends could hang."""
        model, version = name
        await self._change(lambda table: table.without_version(model, version, reason=reason, withdraw=withdraw))
        await self._deployer.delete(name)

    def _versions_of(self, model: str) -> dict[str, str]:
        route = self._table.models.get(model)
        return route.versions if route else {}

    async def _change(self, change: Callable[[RoutingTable], RoutingTable], *, built: bool = True) -> Told:
        """To its end, also if whoever asked for it is cancelled: what is in the file must be what is known here."""
        return await whole(self._changed(change, built=built))

    async def _changed(self, change: Callable[[RoutingTable], RoutingTable], *, built: bool) -> Told:
        """Write the changed table down, then tell the gateways. Nobody waits for those who are being told."""
        async with self._writing:
            table = change(self._table)
            if table is not self._table:
                await self._writer.do(self._write, table)
                self._table = table
        return await self._publish(table, built=built)

    def _write(self, table: RoutingTable) -> None:
        """Whenever this is cut short, the file of the withdrawn knows at least those of the table."""
        before = self._withdrawn.read()
        both = {**before, **table.withdrawn}
        if both != before:
            self._withdrawn.write(both)
        self._state.write(table)
        if table.withdrawn != both:
            self._withdrawn.write(table.withdrawn)

    def _highest(self, model: str, rolled_back: Mapping[str, str]) -> str:
        versions = [name.version for name in self._registry.versions() if name.model == model]
        if not versions:
            raise ModelNotFound(f"the registry has no model '{model}'")
        return max([one for one in versions if f"{model}@{one}" not in rolled_back] or versions, key=natural_key)


def initial_models(settings: Settings, registry: Registry) -> tuple[ModelSettings, ...]:
    """What is served at start: what the settings name, else every model of the registry in its highest version."""
    if settings.models:
        return settings.models
    highest: dict[str, str] = {}
    for name in registry.versions():
        highest[name.model] = max(highest.get(name.model, name.version), name.version, key=natural_key)
    return tuple(ModelSettings(name=model, versions=(version,)) for model, version in highest.items())


def in_place_of(model: ModelSettings, others: Sequence[str]) -> str:
    """Which of the other versions answers instead of the stable one: one that the settings name, else the one before.

    The settings' last counts most, as it does for them; of later ones than the stable nobody knows what they are worth.
    """
    named = [version for version in model.versions if version in others]
    key = natural_key(model.stable_version)
    before = [version for version in others if natural_key(version) < key]
    return named[-1] if named else max(before or others, key=natural_key)


def _unwritten(error: OSError) -> RolloutsUnavailable:
    return RolloutsUnavailable(f"the routing table can't be written, so it stays as it is: {error}")


def natural_key(version: str) -> list[tuple[int, str]]:
    """Orders versions as people do: v2 before v10."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"([0-9]+)", version) if part]


def rolled_back_because(reason: str) -> str:
    return reason if is_rolled_back(reason) else f"rolled back: {reason}"  # a person's reason says so itself


def is_rolled_back(reason: str) -> bool:
    """Whether a version is withdrawn for this reason because it was rolled back, and not by an unload."""
    return reason.startswith("rolled back")


def replaced_because(version: str) -> str:
    return f"replaced by {version}"


def _without(table: RoutingTable, *, name: ModelVersion, reason: str, withdraw: bool = False) -> RoutingTable:
    return table.without_version(name.model, name.version, reason=reason, withdraw=withdraw)
