"""The routing table: what is served and which version answers. Frozen, numbered, and plain data on disk. Pure.

Gateways swap it in by one reference. Not here: who writes it (the control plane), lanes and replicas.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated

import msgspec

from serving.errors import ModelNotFound


class Mirrored(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A version that is asked a share of what the model is asked, though nobody waits for its answers."""

    version: str
    share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0


class ModelRoute(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One model: the version that answers by default, and every version that can be asked for.

    ``versions`` maps a version to the digest of its manifest.
    """

    stable: str
    versions: dict[str, str]
    mirror: Mirrored | None = None

    def __post_init__(self) -> None:
        if self.stable not in self.versions:
            raise ValueError(f"the stable version '{self.stable}' isn't among {sorted(self.versions)}")
        if self.mirror is not None and (self.mirror.version not in self.versions or self.mirror.version == self.stable):
            raise ValueError(f"the mirrored version '{self.mirror.version}' isn't one of {self.others}")

    @property
    def others(self) -> list[str]:
        """The versions that don't answer by default."""
        return sorted(self.versions.keys() - {self.stable})

    def mirror_among(self, stable: str, versions: Mapping[str, str]) -> Mirrored | None:
        """The mirror, if it can stay when the versions are these."""
        mirror = self.mirror
        return mirror if mirror is not None and mirror.version in versions and mirror.version != stable else None


class RoutingTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All models. A table with a higher ``generation`` replaces one with a lower.

    ``unavailable`` says of versions (``model@version``) that should be served why they aren't. ``withdrawn`` says of
    versions, by digest, why what they answered may not be given again: cached answers of theirs are void.
    """

    generation: int = 0
    models: dict[str, ModelRoute] = {}
    unavailable: dict[str, str] = {}
    withdrawn: dict[str, str] = {}

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

        It becomes the stable one if it is the first of its model or ``stable`` says so. If it was withdrawn, it is so
        no more, unless ``still_withdrawn`` says so.
        """
        route = self.models.get(model)
        versions = {**(route.versions if route else {}), version: digest}
        name = version if route is None or stable else route.stable
        reasons = {key: reason for key, reason in self.unavailable.items() if key != f"{model}@{version}"}
        withdrawn = {key: reason for key, reason in self.withdrawn.items() if still_withdrawn or key != digest}
        mirror = None if route is None else route.mirror_among(name, versions)
        models = {**self.models, model: ModelRoute(name, versions, mirror)}
        return RoutingTable(self.generation + 1, models, reasons, withdrawn)

    def with_withdrawn(self, withdrawn: Mapping[str, str]) -> RoutingTable:
        """The next table, in which these are withdrawn too; this one if they are already."""
        if withdrawn.keys() <= self.withdrawn.keys():
            return self
        return RoutingTable(self.generation + 1, self.models, self.unavailable, {**withdrawn, **self.withdrawn})

    def without_version(
        self, model: str, version: str, *, reason: str | None = None, withdraw: bool = False
    ) -> RoutingTable:
        """The next table, without this version, and why if there is something to say.

        If it was the stable one, the one that was added last takes its place. ``withdraw`` takes back what it has
        answered, too.
        """
        models = dict(self.models)
        route = models.pop(model, None)
        versions = {name: digest for name, digest in route.versions.items() if name != version} if route else {}
        if route and versions:
            stable = route.stable if route.stable != version else list(versions)[-1]
            models[model] = ModelRoute(stable, versions, route.mirror_among(stable, versions))
        reasons = {key: said for key, said in self.unavailable.items() if key != f"{model}@{version}"}
        if reason is not None:
            reasons[f"{model}@{version}"] = reason
        withdrawn = self.withdrawn
        if withdraw and route is not None and version in route.versions:
            withdrawn = {**withdrawn, route.versions[version]: reason or "withdrawn"}
        return RoutingTable(self.generation + 1, models, reasons, withdrawn)

    def with_mirror(self, model: str, version: str, share: float) -> RoutingTable:
        """The next table, in which this share of the model's requests is mirrored to a version of it.

        One model has one such mirror. Raises ``ValueError`` if the version isn't served beside the stable one.
        """
        route = self._route(model)
        if not 0 < share <= 1:
            raise ValueError(f"the share to mirror is {share}, not above 0 and at most 1")
        return self._with_route(model, msgspec.structs.replace(route, mirror=Mirrored(version, share)))

    def without_mirror(self, model: str) -> RoutingTable:
        """The next table, in which nothing of the model is mirrored because the table says so."""
        return self._with_route(model, msgspec.structs.replace(self._route(model), mirror=None))

    def _route(self, model: str) -> ModelRoute:
        route = self.models.get(model)
        if route is None:
            raise ValueError(f"model '{model}' isn't served here")
        return route

    def _with_route(self, model: str, route: ModelRoute) -> RoutingTable:
        return msgspec.structs.replace(self, generation=self.generation + 1, models={**self.models, model: route})


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
