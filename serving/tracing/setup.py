"""Puts a gateway's request ids, log lines and traces together from the settings.

Not here: the parts themselves, and who tells them of requests (``serving.ingress.front``).
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from serving.clock import Clock
from serving.gateway import Gateway
from serving.incidents.setup import rollout_of
from serving.settings import Settings, TracingSettings
from serving.tracing.context import RequestContexts
from serving.tracing.export import SpanExport
from serving.tracing.privacy import quotable
from serving.tracing.request_log import RequestLog
from serving.tracing.sampling import ParentBased

if TYPE_CHECKING:
    from serving.tracing.export import Collector

PREFIX_BITS = 48


def open_tracing(
    settings: Settings, gateway: Gateway, *, version: str, clock: Clock, random_bits: Callable[[int], int]
) -> SpanExport | None:
    """What sends spans, or None if the settings name no collector. It connects later, in its thread.

    The SDK is imported now, so that it is among what ``serving.garbage`` leaves alone.
    """
    own = settings.tracing
    if own is None:
        return None
    import serving.tracing.otlp  # noqa: F401

    export = SpanExport(
        lambda: connected(own, version=version, random_bits=random_bits),
        rollout_of=lambda model: rollout_of(gateway, model),
        quotable=quotable(settings),
        clock=clock,
    )
    export.start()
    return export


def connected(own: TracingSettings, *, version: str, random_bits: Callable[[int], int]) -> Collector:
    """The SDK and its exporter."""
    from serving.tracing.otlp import OtlpCollector, http_exporter

    return OtlpCollector(
        http_exporter(own.endpoint, timeout_s=own.timeout_s),
        resource={
            "service.name": own.service_name,
            "service.version": version,
            "service.instance.id": f"{socket.gethostname()}:{os.getpid()}",
        },
        random_bits=random_bits,
    )


def request_contexts(
    settings: Settings,
    traces: SpanExport | None,
    *,
    clock: Clock,
    random: Callable[[], float],
    random_bits: Callable[[int], int],
) -> RequestContexts:
    """Ids begin with a few random digits of this process's own. Only where ``traces`` are sent some have one."""
    sampler = None
    if settings.tracing is not None and traces is not None:
        sampler = ParentBased(
            settings.tracing.sample_ratio,
            max_per_s=settings.tracing.max_per_s,
            one_too_many=traces.stats.one_too_many,
            clock=clock,
            random=random,
            random_bits=random_bits,
        )
    return RequestContexts(f"{random_bits(PREFIX_BITS):012x}", sampler)


def request_log(settings: Settings, gateway: Gateway, *, clock: Clock, random: Callable[[], float]) -> RequestLog:
    return RequestLog(
        logging.getLogger("holdfast.requests"),
        share=settings.access_log,
        quotable=quotable(settings),
        rollout_of=lambda model: rollout_of(gateway, model),
        clock=clock,
        random=random,
    )
