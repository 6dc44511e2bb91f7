"""Who does what: the doing of every fault.

Only processes of the system under test are hurt, by pid. Not here: when (`schedule.py`).
"""

from typing import Final

from loadtests.chaos import faults, on_clients, on_processes, on_replicas, on_stores
from loadtests.chaos.blows import Hand

HANDS: Final[dict[type[faults.Fault], Hand]] = {
    faults.KillReplica: on_replicas.kill_replica,
    faults.CrashLoop: on_replicas.crash_loop,
    faults.WedgeReplica: on_replicas.wedge_replica,
    faults.Slow: on_replicas.commanded(on_replicas.slowness),
    faults.ErrorRate: on_replicas.commanded(lambda fault: {"fail_rate": fault.rate}),
    faults.Nan: on_replicas.commanded(lambda fault: {"nan_rate": fault.rate}),
    faults.WrongShape: on_replicas.commanded(lambda fault: {"wrong_shape_rate": fault.rate}),
    faults.Leak: on_replicas.leak,
    faults.Cut: on_replicas.channel("cut"),
    faults.Stall: on_replicas.channel("stall"),
    faults.Garble: on_replicas.channel("garble"),
    faults.KillGateway: on_processes.kill_gateway,
    faults.DrainGateway: on_processes.drain_gateway,
    faults.RollingRestart: on_processes.rolling_restart,
    faults.KillHaproxy: on_processes.kill_haproxy,
    faults.KillControl: on_processes.kill_control,
    faults.KillServeController: on_processes.kill_serve_controller,
    faults.RestartEverything: on_processes.restart_everything,
    faults.KillNode: on_processes.kill_node,
    faults.CorruptArtifact: on_stores.corrupt_artifact,
    faults.RedisKill: on_stores.redis_kill,
    faults.RedisSlow: on_stores.redis_slow,
    faults.PostgresStop: on_stores.postgres_stop,
    faults.DiskFull: on_stores.disk_full,
    faults.ClientFlood: on_clients.client_flood,
    faults.SlowClients: on_clients.slow_clients,
    faults.HalfOpen: on_clients.half_open,
}
