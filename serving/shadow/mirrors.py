"""Which mirrors a gateway has: those that the settings ask for, and those that the routing table does.

A mirror outlives tables and versions, so that its counts only ever grow; one that isn't asked for any more is stopped.
Not here: mirroring itself (``serving.shadow.mirror``).
"""

from __future__ import annotations

from collections.abc import Callable

from models.manifest import Manifest
from serving.clock import Clock
from serving.model_settings import ModelSettings, ShadowSettings
from serving.routing.table import ModelRoute
from serving.shadow.compare import Close, Rule, SameLabel, Within, rule_of
from serving.shadow.counts import MirrorCounts
from serving.shadow.mirror import Mirror, MirrorLimits, Target

Find = Callable[[str, str | None], Target | None]
"""The version of a model that is served here, by default its stable one; None if it isn't."""

DEFAULTS = ShadowSettings(version="any")
"""For a mirror that the table asks for, where the settings say nothing of the model's shadow."""


class Mirrors:
    """All mirrors of one gateway."""

    def __init__(self, *, find: Find, clock: Clock, random: Callable[[], float]) -> None:
        self._find = find
        self._clock = clock
        self._random = random
        self._mirrors: dict[tuple[str, str], Mirror] = {}

    def of_model(self, settings: ModelSettings, route: ModelRoute, manifest: Manifest) -> tuple[Mirror, ...]:
        """The mirrors of a model, in use from now on; ``manifest`` is its stable version's.

        The table's mirror goes before the settings' if both mean the same version.
        """
        shadow = settings.shadow
        wanted: dict[tuple[str, str | None], float] = {}
        if shadow is not None:
            wanted[shadow.model or settings.name, shadow.version] = shadow.share
        if route.mirror is not None:
            wanted[settings.name, route.mirror.version] = route.mirror.share
        rule = rule_from(shadow or DEFAULTS, manifest)
        mirrors: list[Mirror] = []
        for (model, version), share in wanted.items():
            if (model, version) == (settings.name, route.stable):
                continue  # it has been promoted meanwhile: the model would be its own shadow
            mirror = self._mirror(settings.name, model, version, shadow or DEFAULTS)
            mirror.use(share=share, rule=rule, signature=manifest.signature)
            mirrors.append(mirror)
        return tuple(mirrors)

    def stop_all_but(self, used: set[Mirror]) -> None:
        for mirror in self._mirrors.values():
            if mirror not in used and mirror.share:
                mirror.stop()

    def close(self) -> None:
        self.stop_all_but(set())

    @property
    def all(self) -> list[Mirror]:
        """Also those that are stopped."""
        return list(self._mirrors.values())

    def counts(self) -> list[MirrorCounts]:
        """What every mirror has done since the gateway started."""
        return [mirror.counts() for mirror in self._mirrors.values()]

    def look(self) -> None:
        """Notice the silent ones. To be called now and then."""
        for mirror in self._mirrors.values():
            mirror.look()

    def _mirror(self, of: str, model: str, version: str | None, settings: ShadowSettings) -> Mirror:
        name = model if version is None else f"{model}@{version}"
        mirror = self._mirrors.get((of, name))
        if mirror is None:
            mirror = self._mirrors[of, name] = Mirror(
                of,
                name,
                limits=mirror_limits(settings),
                find=lambda: self._find(model, version),
                clock=self._clock,
                random=self._random,
            )
        return mirror


def mirror_limits(settings: ShadowSettings) -> MirrorLimits:
    return MirrorLimits(
        timeout_s=settings.timeout_ms / 1000,
        concurrency=settings.concurrency,
        queue_max=settings.queue_max,
        queue_max_bytes=settings.queue_max_bytes,
        silent_after_s=settings.silent_after_s,
    )


def rule_from(settings: ShadowSettings, manifest: Manifest) -> Rule:
    """The rule by which answers of this version are compared with a shadow's."""
    if settings.compare == "label":
        return SameLabel()
    if settings.compare == "distance":
        return Close(settings.distance_max, settings.distance)
    if settings.compare == "tolerance":
        absolute, relative, golden = settings.absolute_tolerance, settings.relative_tolerance, manifest.golden
        return Within(
            golden.absolute_tolerance if absolute is None else absolute,
            golden.relative_tolerance if relative is None else relative,
        )
    return rule_of(manifest)
