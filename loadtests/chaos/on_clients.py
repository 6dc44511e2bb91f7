"""Crowds of clients that behave badly, beside the users."""

from loadtests.chaos import crowds, faults
from loadtests.chaos.blows import Blow, Done


async def client_flood(blow: Blow[faults.ClientFlood]) -> Done:
    asked = await crowds.flood(blow.world.system.port, clients=blow.fault.clients, lasts_s=blow.fault.lasts)
    return Done("clients", f"{asked} requests of {blow.fault.clients} clients that never wait", blow.world.now_s)


async def slow_clients(blow: Blow[faults.SlowClients]) -> Done:
    connected, answered = await crowds.slow(
        blow.world.system.port, clients=blow.fault.clients, lasts_s=blow.fault.lasts
    )
    return Done("clients", f"{connected} slow clients, {answered} of them had their answer", blow.world.now_s)


async def half_open(blow: Blow[faults.HalfOpen]) -> Done:
    connected = await crowds.half_open(blow.world.system.port, clients=blow.fault.clients, lasts_s=blow.fault.lasts)
    return Done("clients", f"{connected} connections with half a request", blow.world.now_s)
