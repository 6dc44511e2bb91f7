"""What a scenario's file may do to a system: every fault by its name, with its parameters. Pure.

Not here: doing it (`hands.py`), and when exactly (`schedule.py`).
"""

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from loadtests.chaos.durations import Seconds

Share = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=1, le=2000)]
Name = Annotated[str, Meta(min_length=1, max_length=128)]


class Target(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Whom a fault meets. Without `version` it is the stable one of the scenario."""

    model: Name = "digits"
    version: Name | None = None
    which: Literal["one", "all"] = "one"


class Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="fault"):
    """`at` is when, after the load began; the seed moves it by up to `jitter`. `every` repeats it up to `until`.

    `lot` says which one of several is hurt; left out, the seed does. With `phase` it waits, if it has to, until the
    rollout is there: how long a version takes to come up is the machine's affair.
    """

    at: Seconds = Seconds(0)
    every: Seconds | None = None
    until: Seconds | None = None
    jitter: Seconds = Seconds(0.5)
    lot: Share | None = None
    phase: Literal["Progressing", "Baking"] | None = None

    def __post_init__(self) -> None:
        if (self.every is None) != (self.until is None):
            raise ValueError("`every` and `until` belong together")
        if self.every is not None and self.every <= 0:
            raise ValueError("`every` must be more than nothing")


class _OfReplicas(Fault, frozen=True, kw_only=True):
    target: Target = Target()


class _Lasting(_OfReplicas, frozen=True, kw_only=True):
    lasts: Seconds = Seconds(5)


class KillReplica(_OfReplicas, frozen=True, kw_only=True, tag="kill_replica"):
    """SIGKILL."""


class CrashLoop(_Lasting, frozen=True, kw_only=True, tag="crash_loop"):
    """Every replica that is there or comes gets SIGKILL, again and again. Nobody waits for the next one."""


class WedgeReplica(_OfReplicas, frozen=True, kw_only=True, tag="wedge_replica"):
    """It stands still: its event loop, its model's thread, or (SIGSTOP) all of it."""

    how: Literal["loop", "model", "stop"] = "model"


class Slow(_Lasting, frozen=True, kw_only=True, tag="slow"):
    """Every run of the model takes longer: by `ms`, by `ms_per_row` for each row, `factor` times as long."""

    ms: Annotated[float, Meta(ge=0, le=60_000)] = 0
    ms_per_row: Annotated[float, Meta(ge=0, le=10_000)] = 0
    factor: Annotated[float, Meta(ge=1, le=1000)] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.ms or self.ms_per_row or self.factor > 1):
            raise ValueError("one of `ms`, `ms_per_row` and `factor` must say how slow")


class ErrorRate(_Lasting, frozen=True, kw_only=True, tag="error_rate"):
    """A share of the model's runs fails."""

    rate: Share = 1.0


class Nan(_Lasting, frozen=True, kw_only=True, tag="nan"):
    """A share of the model's runs answers NaN."""

    rate: Share = 1.0


class WrongShape(_Lasting, frozen=True, kw_only=True, tag="wrong_shape"):
    """A share of the model's runs answers in another shape than its signature says."""

    rate: Share = 1.0


class Leak(_Lasting, frozen=True, kw_only=True, tag="leak"):
    """Every run of the model keeps so much memory for ever, until the replica is replaced or its time is over."""

    kib: Annotated[int, Meta(ge=1, le=1 << 20)] = 256


class Channel(_Lasting, frozen=True, kw_only=True):
    rate: Annotated[float, Meta(gt=0, le=1)] = 1.0


class Cut(Channel, frozen=True, kw_only=True, tag="cut"):
    """Connections between gateways and replicas break as soon as they carry work."""


class Stall(Channel, frozen=True, kw_only=True, tag="stall"):
    """They carry nothing any more, and don't say so."""


class Garble(Channel, frozen=True, kw_only=True, tag="garble"):
    """They carry bytes that mean nothing."""


class KillGateway(Fault, frozen=True, kw_only=True, tag="kill_gateway"):
    """SIGKILL to a gateway, or to all at once."""

    which: Literal["one", "all"] = "one"


class DrainGateway(Fault, frozen=True, kw_only=True, tag="drain_gateway"):
    """SIGTERM to a gateway."""


class RollingRestart(Fault, frozen=True, kw_only=True, tag="rolling_restart"):
    """All gateways are replaced one after the other, as `holdfast gateways restart` does it."""


class KillHaproxy(Fault, frozen=True, kw_only=True, tag="kill_haproxy"):
    """SIGKILL to HAProxy."""


class KillControl(Fault, frozen=True, kw_only=True, tag="kill_control"):
    """SIGKILL to the control plane with the rollout controller."""


class KillServeController(Fault, frozen=True, kw_only=True, tag="kill_serve_controller"):
    """SIGKILL to Ray Serve's own controller."""


class RestartEverything(Fault, frozen=True, kw_only=True, tag="restart_everything"):
    """Ctrl-C to all of it, and a new start with the same folders."""


class KillNode(Fault, frozen=True, kw_only=True, tag="kill_node"):
    """SIGKILL to all of a node that isn't the head node. Another one joins after the time that is given."""

    away: Seconds = Seconds(3)


class CorruptArtifact(Fault, frozen=True, kw_only=True, tag="corrupt_artifact"):
    """A byte of a version in the store is flipped, and the version is to be loaded: it must be refused."""

    target: Target = Target(version="v1")


class RedisKill(Fault, frozen=True, kw_only=True, tag="redis_kill"):
    """SIGKILL to the shared cache's Redis; an empty one comes back."""

    lasts: Seconds = Seconds(5)


class RedisSlow(Fault, frozen=True, kw_only=True, tag="redis_slow"):
    """Redis answers everything so late."""

    delay: Seconds = Seconds(2)
    lasts: Seconds = Seconds(5)


class PostgresStop(Fault, frozen=True, kw_only=True, tag="postgres_stop"):
    """The event log's PostgreSQL is gone."""

    lasts: Seconds = Seconds(8)


class DiskFull(Fault, frozen=True, kw_only=True, tag="disk_full"):
    """No file of the control plane may grow any more."""

    lasts: Seconds = Seconds(6)


class ClientFlood(Fault, frozen=True, kw_only=True, tag="client_flood"):
    """So many connections at a time that each ask once and go away without reading the answer."""

    clients: Count = 50
    lasts: Seconds = Seconds(5)


class SlowClients(Fault, frozen=True, kw_only=True, tag="slow_clients"):
    """So many clients at once that send a request byte by byte and read the answer byte by byte."""

    clients: Count = 500
    lasts: Seconds = Seconds(10)


class HalfOpen(Fault, frozen=True, kw_only=True, tag="half_open"):
    """So many connections that send the first half of a request, and then nothing."""

    clients: Count = 200
    lasts: Seconds = Seconds(10)


AnyFault = (
    KillReplica
    | CrashLoop
    | WedgeReplica
    | Slow
    | ErrorRate
    | Nan
    | WrongShape
    | Leak
    | Cut
    | Stall
    | Garble
    | KillGateway
    | DrainGateway
    | RollingRestart
    | KillHaproxy
    | KillControl
    | KillServeController
    | RestartEverything
    | KillNode
    | CorruptArtifact
    | RedisKill
    | RedisSlow
    | PostgresStop
    | DiskFull
    | ClientFlood
    | SlowClients
    | HalfOpen
)

OF_ITS_OWN: Final = (
    KillGateway,
    DrainGateway,
    RollingRestart,
    KillHaproxy,
    KillServeController,
    RestartEverything,
    KillNode,
    CorruptArtifact,
    RedisKill,
    RedisSlow,
    PostgresStop,
)
"""These need a system that the run itself has started; the others can be done to one that is there."""


def name_of(fault: Fault) -> str:
    return str(fault.__struct_config__.tag)


_WHEN_AND_WHOM: Final = frozenset({"fault", "at", "every", "until", "jitter", "lot", "phase"})
NAMES: Final = tuple(sorted(str(kind.__struct_config__.tag) for kind in AnyFault.__args__))


def parameters(fault: Fault) -> dict[str, Any]:
    """What is told of it in a record: everything but when, and who is hurt."""
    document: dict[str, Any] = msgspec.to_builtins(fault, enc_hook=float)
    return {key: value for key, value in document.items() if key not in _WHEN_AND_WHOM}
