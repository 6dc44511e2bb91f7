"""The routing table: what is served and which version answers. Frozen, numbered, and plain data on disk. Pure.

Gateways swap it in by one reference. Not here: who writes it (the control plane), lanes and replicas.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Annotated, Literal

import msgspec
from msgspec.structs import replace

from serving.errors import ModelNotFound

Stickiness = Literal["key", "random"]


class Mirrored(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A version that is asked a share of what the model is asked, though nobody waits for its answers."""

    version: str
    share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0


class Split(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A canary, and its share of the requests that name no version.

    ``epoch`` names the rollout: another one shuffles the keys anew and begins to count anew. ``stickiness`` says
    whether a request's key decides where it goes (one without a key goes at random), or chance alone. An answer that
    takes longer than ``objective_s`` is a slow one.
    """

    version: str
    weight: float
    epoch: str
    stickiness: Stickiness = "key"
    objective_s: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise ValueError(f"the weight of '{self.version}' is {self.weight}, must be from 0 to 1")
        if not self.epoch:
            raise ValueError(f"the split to '{self.version}' has no epoch")
        if self.objective_s is not None and not self.objective_s > 0:
            raise ValueError(f"objective_s of '{self.version}' is {self.objective_s}, must be over 0")


class ModelRoute(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One model: the version that answers by default, and every version that can be asked for.

    ``versions`` maps a version to the digest of its manifest. With a ``split``, a canary answers a part of what would
    be the stable version's.
    """

    stable: str
    versions: dict[str, str]
    mirror: Mirrored | None = None
    split: Split | None = None

    def __post_init__(self) -> None:
        if self.stable not in self.versions:
            raise ValueError(f"the stable version '{self.stable}' isn't among {sorted(self.versions)}")
        if self.mirror is not None and (self.mirror.version not in self.versions or self.mirror.version == self.stable):
            raise ValueError(f"the mirrored version '{self.mirror.version}' isn't one of {self.others}")
        if self.split is None:
            return
        if self.split.version not in self.versions:
            raise ValueError(f"the canary '{self.split.version}' isn't among {sorted(self.versions)}")
        if self.split.version == self.stable:
            raise ValueError(f"'{self.stable}' is the stable version and can't be its own canary")

    @property
    def others(self) -> list[str]:
        """The versions that don't answer by default."""
        return sorted(self.versions.keys() - {self.stable})

    def moved(self, stable: str, versions: dict[str, str]) -> ModelRoute:
        """With this stable version and these others: mirror and canary stay if they still can."""
        mirror, split = self.mirror, self.split
        return ModelRoute(
            stable,
            versions,
            mirror if mirror is not None and mirror.version in versions and mirror.version != stable else None,
            split if split is not None and split.version in versions and stable == self.stable else None,
        )


class RoutingTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All models. A table with a higher ``generation`` replaces one with a lower.

    ``unavailable`` says of versions (``model@version``) that should be served why they aren't. ``withdrawn`` says of
    versions, by digest, why what they answered may not be given again: cached answers of theirs are void. ``coming``
    are versions that are being brought up because they are to be served from the start: whoever asks for one shall come
    again, not go away.
    """

    generation: int = 0
    models: dict[str, ModelRoute] = {}
    unavailable: dict[str, str] = {}
    withdrawn: dict[str, str] = {}
    coming: tuple[str, ...] = ()

    def comes(self, model: str, version: str | None) -> bool:
        """Whether this version of the model, or any, is on its way."""
        if version is not None:
            return f"{model}@{version}" in self.coming
        return any(name.partition("@")[0] == model for name in self.coming)

    def expecting(self, names: Iterable[str]) -> RoutingTable:
        """The next table, in which these versions and no others are on their way; this one if they are already."""
        coming = tuple(sorted(names))
        return self if coming == self.coming else replace(self, generation=self.generation + 1, coming=coming)

    def _still_coming(self, arrived: str) -> tuple[str, ...]:
        return tuple([name for name in self.coming if name != arrived])

    def resolve(self, model: str, version: str | None) -> str:
        """The version that shall answer; raises ``ModelNotFound``."""
        route = self.models.get(model)
        if route is None:
            raise ModelNotFound(f"model '{model}' isn't served here")
        if version is None:
            return route.stable
        if version not in route.versions:
            known = ", ".join(sorted(route.versions))
            raise ModelNotFound(f"model '{model}' has no version '{version}' loaded, only {known}")
        return version

    def with_version(
        self, model: str, version: str, digest: str, *, stable: bool = False, still_withdrawn: bool = False
    ) -> RoutingTable:
        """The next table, in which this version is served too.

        It becomes the stable one if it is the first of its model or ``stable`` says so; a split ends with the stable
        version that it was made beside. If it was withdrawn, it is so no more, unless ``still_withdrawn`` says so.
        """
        route = self.models.get(model)
        versions = {**(route.versions if route else {}), version: digest}
        name = version if route is None or stable else route.stable
        reasons = {key: reason for key, reason in self.unavailable.items() if key != f"{model}@{version}"}
        withdrawn = {key: reason for key, reason in self.withdrawn.items() if still_withdrawn or key != digest}
        models = {**self.models, model: ModelRoute(name, versions) if route is None else route.moved(name, versions)}
        return RoutingTable(self.generation + 1, models, reasons, withdrawn, self._still_coming(f"{model}@{version}"))

    def with_withdrawn(self, withdrawn: Mapping[str, str]) -> RoutingTable:
        """The next table, in which these are withdrawn too; this one if they are already."""
        if withdrawn.keys() <= self.withdrawn.keys():
            return self
        return replace(self, generation=self.generation + 1, withdrawn={**withdrawn, **self.withdrawn})

    def without_version(
        self, model: str, version: str, *, reason: str | None = None, withdraw: bool = False
    ) -> RoutingTable:
        """The next table, without this version, and why if there is something to say.

        If it was the stable one, the one that was added last takes its place, a canary only for want of others. If it
        was one of the two of a split, that ends. ``withdraw`` takes back what it has answered, too.
        """
        models = dict(self.models)
        route = models.pop(model, None)
        versions = {name: digest for name, digest in route.versions.items() if name != version} if route else {}
        if route and versions:
            models[model] = _route_without(route, version, versions)
        reasons = {key: said for key, said in self.unavailable.items() if key != f"{model}@{version}"}
        if reason is not None:
            reasons[f"{model}@{version}"] = reason
        withdrawn = self.withdrawn
        if withdraw and route is not None and version in route.versions:
            withdrawn = {**withdrawn, route.versions[version]: reason or "withdrawn"}
        return RoutingTable(self.generation + 1, models, reasons, withdrawn, self._still_coming(f"{model}@{version}"))

    def with_mirror(self, model: str, version: str, share: float) -> RoutingTable:
        """The next table, in which this share of the model's requests is mirrored to a version of it.

        One model has one such mirror. Raises ``ModelNotFound``, and ``ValueError`` if the version isn't served beside
        the stable one.
        """
        if not 0 < share <= 1:
            raise ValueError(f"the share to mirror is {share}, not above 0 and at most 1")
        return self.with_route(model, replace(self._route(model), mirror=Mirrored(version, share)))

    def without_mirror(self, model: str) -> RoutingTable:
        """The next table, in which nothing of the model is mirrored because the table says so."""
        return self.with_route(model, replace(self._route(model), mirror=None))

    def with_split(self, model: str, split: Split | None) -> RoutingTable:
        """The next table, in which this canary has this weight, or with None: in which the model has no canary.

        Raises ``ModelNotFound``, and ``ValueError`` if the canary isn't served or is the stable version.
        """
        return self.with_route(model, replace(self._route(model), split=split))

    def with_stable(self, model: str, version: str) -> RoutingTable:
        """The next table, in which this version answers by default. A split ends: its canary has won, or has no rival.

        The version that was stable stays served. Raises ``ModelNotFound`` if this one isn't.
        """
        route, stable = self._route(model), self.resolve(model, version)
        return self.with_route(model, replace(route.moved(stable, route.versions), split=None))

    def _route(self, model: str) -> ModelRoute:
        self.resolve(model, None)
        return self.models[model]

    def with_route(self, model: str, route: ModelRoute) -> RoutingTable:
        """The next table, in which the model is this."""
        return replace(self, generation=self.generation + 1, models={**self.models, model: route})


def _route_without(route: ModelRoute, version: str, versions: dict[str, str]) -> ModelRoute:
    if route.stable != version:
        return route.moved(route.stable, versions)
    split = route.split
    proven = [name for name in versions if split is None or name != split.version]
    return route.moved((proven or list(versions))[-1], versions)


EMPTY = RoutingTable()

_decoder = msgspec.json.Decoder(RoutingTable)


def table_to_json(table: RoutingTable) -> bytes:
    return msgspec.json.encode(table)


def table_from_json(raw: bytes) -> RoutingTable:
    """Raises ``ValueError`` for anything that isn't a table."""
    return _decoder.decode(raw)


def loaded(table: RoutingTable) -> Mapping[tuple[str, str], str]:
    """Every (model, version) of the table and its digest."""
    return MappingProxyType(
        {(name, version): digest for name, route in table.models.items() for version, digest in route.versions.items()}
    )
