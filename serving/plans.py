"""How calls for each model are answered: admission, fallback chain and memory, made from the settings.

What belongs to a model outlives its versions: while none of them can be asked, its chain still answers. Not here: the
versions themselves (``serving.gateway``), and the life of a request (``serving.request.pipeline``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from fallbacks.cached_prediction import CachedPrediction, Remembered
from fallbacks.chain import Chain, Degraded, Question, Strategy, Unusable
from fallbacks.prior_version import PriorVersion
from fallbacks.shadow_model import ShadowModel
from fallbacks.stand_in import StandIn, stand_in_fault
from fallbacks.static_answer import InvalidStatic, StaticAnswer
from models.inference import Tensors
from models.manifest import Manifest
from models.signature import Signature
from serving.cache.tiers import PredictionCache
from serving.clock import Clock
from serving.errors import RequestError
from serving.model_settings import Fallback, ModelSettings, UseCache, UseModel, UsePriorVersion, UseStatic
from serving.protocol.decode import RequestDecoder
from serving.request.admission import Admission, Permit, admission_limits
from serving.request.attempts import Exchange
from serving.request.deadline import Deadlines
from serving.request.failures import failure_of
from serving.request.memory import Memory
from serving.request.pipeline import Canary, Plan, ServedVersion
from serving.request.priority import LOW
from serving.request.quality import QualityCounts, QualityGate
from serving.shadow.compare import rule_fault
from serving.shadow.mirrors import rule_from
from serving.tracing.trace import Trace

log = logging.getLogger("holdfast.gateway")


class Asked(Protocol):
    """A version that is served here, seen by the chains of others."""

    @property
    def served(self) -> ServedVersion: ...

    @property
    def manifest(self) -> Manifest: ...


FindVersion = Callable[[str, str | None], Asked | None]
"""The version of a model that is served here, by default its stable one; None if it isn't."""


@dataclass(slots=True)
class ModelPlan:
    """One model as its callers meet it, whatever versions it has at the moment."""

    settings: ModelSettings
    admission: Admission
    signature: Signature
    digest: str
    """The signature's."""
    decoder: RequestDecoder
    chain: Chain
    memory: Memory | None
    quality: QualityGate | None
    """By the manifest of the version whose signature it is."""

    def plan(self, served: ServedVersion | None, version: str, canary: Canary | None = None) -> Plan:
        """For calls that don't name a version; ``version`` is the one that should answer them."""
        return Plan(
            (self.settings.name, version),
            served,
            self.decoder,
            self.settings.timeout_ms / 1000,
            self.admission,
            self.chain,
            self.memory,
            canary=canary,
            quality=self.quality,
        )

    def pinned(self, served: ServedVersion, decoder: RequestDecoder, quality: QualityGate | None = None) -> Plan:
        """For calls that name this version, and want no other's answer."""
        key = (served.model, served.version)
        timeout_s = self.settings.timeout_ms / 1000
        return Plan(key, served, decoder, timeout_s, self.admission, pinned=True, quality=quality)


class Planner:
    """Makes ``ModelPlan``s and keeps what must not begin anew with each routing table."""

    def __init__(
        self,
        *,
        clock: Clock,
        deadlines: Deadlines,
        find: FindVersion,
        withdrawn: Callable[[str], bool],
        cache: PredictionCache | None,
    ) -> None:
        self._clock = clock
        self._deadlines = deadlines
        self._find = find
        self._withdrawn = withdrawn
        self._cache = cache
        self._models: dict[str, ModelPlan] = {}
        self.quality: dict[str, QualityCounts] = {}
        """What was counted of each model whose inputs' values are looked at."""

    @property
    def models(self) -> dict[str, ModelPlan]:
        return self._models

    def of_model(self, settings: ModelSettings, manifest: Manifest) -> ModelPlan:
        """The model's plan, for callers who speak the signature of this version, its stable one."""
        known = self._models.get(settings.name)
        digest = manifest.signature_digest
        if known is not None and known.digest == digest and known.settings == settings:
            known.quality = self.gate(settings, manifest)
            return known  # requests that are under way when the table changes find the same decoder in the next one
        signature = manifest.signature
        memory = self._memory(settings, digest)
        admission = known.admission if known is not None else self._admission(settings)
        strategies = [self._strategy(entry, settings, signature, memory) for entry in settings.fallback]
        chain = Chain(strategies, broken=partial(_tell_of_defect, settings.name))
        decoder = RequestDecoder(settings.name, signature)
        quality = self.gate(settings, manifest)
        plan = ModelPlan(settings, admission, signature, digest, decoder, chain, memory, quality)
        self._models[settings.name] = plan
        return plan

    def gate(self, settings: ModelSettings, manifest: Manifest) -> QualityGate | None:
        """What looks at the values of this version's requests; None if nothing is said of them, or nobody asks."""
        mode = settings.input_quality.mode
        if mode == "off" or not manifest.quality:
            return None
        counts = self.quality.setdefault(settings.name, QualityCounts())
        return QualityGate(manifest.quality, manifest.signature, counts=counts, rejects=mode == "reject")

    def _admission(self, settings: ModelSettings) -> Admission:
        return Admission(settings.name, admission_limits(settings), clock=self._clock, deadlines=self._deadlines)

    def _memory(self, settings: ModelSettings, digest: str) -> Memory | None:
        if self._cache is None or not settings.caches:
            return None
        return Memory(
            self._cache,
            model=settings.name,
            signature_digest=digest,
            fresh_s=settings.cache_fresh_ms / 1000,
            withdrawn=self._withdrawn,
            clock=self._clock,
        )

    def _strategy(
        self, entry: Fallback, settings: ModelSettings, signature: Signature, memory: Memory | None
    ) -> Strategy:
        model = settings.name
        if isinstance(entry, UsePriorVersion):
            version = entry.version
            return PriorVersion(version, signature, lambda: self._stand_in(model, version))
        if isinstance(entry, UseModel):
            other = entry.model
            return ShadowModel(other, signature, lambda: self._stand_in(other, None))
        if isinstance(entry, UseCache):
            return _cached(entry, memory)
        return static_strategy(model, signature, entry)

    def _stand_in(self, model: str, version: str | None) -> StandIn | None:
        found = self._find(model, version)
        if found is None or (version is not None and found is self._find(model, None)):
            return None  # it has become the stable version: then it has been asked already
        served = found.served
        # Another model has callers of its own, whom ours must not push out; another version of ours has our permit.
        admission = self._models[model].admission if version is None and model in self._models else None

        async def ask(question: Question) -> Tensors:
            return await ask_version(served, question, admission)

        return StandIn(served.model, served.version, found.manifest.signature, ask)


def _tell_of_defect(model: str, strategy: str, error: Exception) -> None:
    log.error(
        "model '%s': a defect in the fallback '%s'; the next such one isn't told", model, strategy, exc_info=error
    )


async def ask_version(served: ServedVersion, question: Question, admission: Admission | None) -> Tensors:
    """A version's answer to another's question. Raises ``Unusable``."""
    permit: Permit | None = None
    if question.shed and served.lane.waiting:
        raise Unusable("it has enough to do")
    try:
        if admission is not None and (permit := admission.try_admit(LOW, question.deadline)) is None:
            raise Unusable("it has enough to do with its own callers")
        trace = question.trace if isinstance(question.trace, Trace) else None
        exchange = Exchange(
            question.request, question.deadline, has_fallback=True, suspect=question.suspect, trace=trace
        )
        return await served.attempts.answer(exchange)
    except RequestError as error:
        raise Unusable(error.told, by_input=failure_of(error).by_input) from None
    finally:
        if permit is not None:
            permit.ignored()


def _cached(entry: UseCache, memory: Memory | None) -> CachedPrediction:
    async def recall(question: Question) -> Remembered | None:
        return None if memory is None else await memory.recall(question, max_stale_s=entry.max_stale_s)

    return CachedPrediction(recall)


def static_strategy(model: str, signature: Signature, entry: UseStatic) -> Strategy:
    """One that can't fit the signature is said so in the log, and whenever it is asked."""
    try:
        return StaticAnswer(model, signature, entry.outputs)
    except InvalidStatic as error:
        log.error("model '%s': the static answer can't be given: %s", model, error)
        return ImpossibleStatic(str(error))


class ImpossibleStatic:
    """A static answer that the settings ask for and that the version which is stable now could not give."""

    kind = "static"
    name = "static"

    def __init__(self, reason: str) -> None:
        self._reason = reason

    async def answer(self, question: Question) -> Degraded:
        raise Unusable(self._reason)


def chain_fault(
    settings: ModelSettings, signature: Signature, signature_of: Callable[[str, str | None], Signature | None]
) -> str | None:
    """What is wrong with a model's chain that only the signatures tell, or None: its key, and the reason.

    ``signature_of`` a model's version, by default its stable one, is None if it isn't known.
    """
    for index, entry in enumerate(settings.fallback):
        key = f"fallback[{index}]"
        if isinstance(entry, UseStatic):
            try:
                StaticAnswer(settings.name, signature, entry.outputs)
            except InvalidStatic as error:
                return f"{key}.{error}"
        elif not isinstance(entry, UseCache):
            if isinstance(entry, UseModel):
                where, name, other = "model", entry.model, signature_of(entry.model, None)
            else:
                where, name, other = "version", entry.version, signature_of(settings.name, entry.version)
            if other is not None and (fault := stand_in_fault(signature, other)) is not None:
                return f"{key}.{where}: '{name}' can't stand in: {fault}"
    return None


def shadow_fault(
    settings: ModelSettings, manifest: Manifest, signature_of: Callable[[str, str | None], Signature | None]
) -> str | None:
    """What is wrong with a model's shadow that only the signatures tell, or None; ``manifest`` is the stable version's.

    It has to take what the model takes and give what the model could have given, in a form that its rule can compare.
    """
    if (shadow := settings.shadow) is None:
        return None
    where, name = ("model", shadow.model) if shadow.model is not None else ("version", shadow.version)
    other = signature_of(shadow.model or settings.name, shadow.version)
    if other is not None and (fault := stand_in_fault(manifest.signature, other)) is not None:
        return f"shadow.{where}: '{name}' can't be asked the same: {fault}"
    if (fault := rule_fault(rule_from(shadow, manifest), manifest.signature)) is not None:
        return f"shadow.compare: {fault}"
    return None
