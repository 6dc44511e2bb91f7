"""The canaries of one gateway: which of them can be sent requests, and what was counted of each.

Counts outlive the routing tables of a rollout, for every step of it is a new table. Not here: the split itself
(``serving.routing``), one request's way (``serving.request.canary``), what the counts mean (the control plane).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Container

from fallbacks.stand_in import stand_in_fault
from serving.clock import Clock
from serving.log_lines import fields
from serving.plans import Asked
from serving.request.canary import Throws
from serving.request.pipeline import Canary
from serving.routing.outcomes import Ledger, SplitOutcomes
from serving.routing.table import RoutingTable, Split

log = logging.getLogger("holdfast.gateway")


class Canaries:
    """``name`` is the gateway's: it tells its counts from those of others, and of itself before it was started anew."""

    def __init__(self, name: str, *, clock: Clock, random: Callable[[], float]) -> None:
        self.name = name
        self._clock = clock
        self._random = random
        self.started = clock.wall()
        self._ledgers: dict[str, Ledger] = {}

    @property
    def models(self) -> list[str]:
        """Those that have had a canary."""
        return list(self._ledgers)

    def canary(
        self, model: str, split: Split, *, stable: Asked, canary: Asked | None, generation: int
    ) -> Canary | None:
        """How requests are thrown by the table of this generation; None if the canary can't take any from here."""
        ledger = self._ledgers.get(model)
        if ledger is None or not _counts(ledger, split, stable.served.version):
            ledger = self._ledgers[model] = Ledger(split.epoch, split.version, stable.served.version)
        fault = _fault(stable, canary)
        if fault and canary is not None and fault != ledger.fault:  # who isn't there is just being loaded, or can't be
            known = fields(model=model, version=split.version, rollout=split.epoch)
            log.error("no request goes to the canary %s@%s: %s", model, split.version, fault, extra=known)
        ledger.fault = fault
        if canary is None or fault:
            return None
        throws = Throws(
            split,
            canary.served.attempts,
            ledger,
            generation=generation,
            clock=self._clock,
            random=self._random,
        )
        return Canary(canary.served, throws, alone=split.weight >= 1.0)

    def take_back(self, table: RoutingTable, *, since: int) -> None:
        """Canaries that this table, if newer than ``since``, doesn't have get no request from here on.

        Neither do they get those that came by an older table and wait to be let in.
        """
        if table.generation <= since:
            return
        for model, ledger in self._ledgers.items():
            route = table.models.get(model)
            if route is None or route.split is None or not _counts(ledger, route.split, route.stable):
                ledger.taken_back_by = max(ledger.taken_back_by, table.generation)

    def keep(self, models: Container[str]) -> None:
        """Forget what was counted of other models than these."""
        self._ledgers = {name: ledger for name, ledger in self._ledgers.items() if name in models}

    def outcomes(self, model: str, table: RoutingTable, split: Split | None, *, keys_from: int) -> SplitOutcomes | None:
        """All that was counted of the model's latest rollout; ``split`` is the one that is in force."""
        ledger = self._ledgers.get(model)
        if ledger is None:
            return None
        route = table.models.get(model)
        return SplitOutcomes(
            gateway=self.name,
            started=self.started,
            generation=table.generation,
            model=model,
            epoch=ledger.epoch,
            canary=ledger.canary,
            stable=ledger.stable,
            weight=0.0 if split is None else split.weight,
            ended=route is None or route.split is None,
            fault=ledger.fault,
            weights=ledger.counts(),
            bad_keys=ledger.bad_keys(keys_from),
            next_key=ledger.next_key,
            keys_full=ledger.keys_full,
        )


def _counts(ledger: Ledger, split: Split, stable: str) -> bool:
    """Whether the ledger is this rollout's."""
    return (ledger.epoch, ledger.canary, ledger.stable) == (split.epoch, split.version, stable)


def _fault(stable: Asked, canary: Asked | None) -> str:
    """Why the canary can't take the stable version's requests here, or nothing."""
    if canary is None:
        return "it isn't loaded in this gateway"
    fault = stand_in_fault(stable.manifest.signature, canary.manifest.signature)
    return "" if fault is None else f"it can't answer for {stable.served.name}: {fault}"
