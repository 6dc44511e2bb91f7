"""All scenarios, in the order of the table."""

from typing import Final

from loadtests.resilience import caches, channels, gateways, replicas
from loadtests.resilience.overload import overload_3x
from loadtests.resilience.scenario import Scenario
from loadtests.resilience.setups import PAIR, TRIO

# Those of one system stand together, the one that restarts it last.
SCENARIOS: Final[tuple[Scenario, ...]] = (
    Scenario("replica_killed_every_5s", PAIR, replicas.replica_killed_every_5s),
    Scenario("all_primary_killed", PAIR, replicas.all_primary_killed),
    Scenario("replica_wedged_model", PAIR, replicas.replica_wedged_model),
    Scenario("replica_wedged_loop", PAIR, replicas.replica_wedged_loop),
    Scenario("all_primary_wedged", PAIR, replicas.all_primary_wedged),
    Scenario("all_primary_too_slow", PAIR, replicas.all_primary_too_slow),
    Scenario("replica_nan_half", PAIR, replicas.replica_nan_half),
    Scenario("channel_cut", PAIR, channels.channel_cut),
    Scenario("channel_garbled", PAIR, channels.channel_garbled),
    Scenario("gateway_killed", PAIR, gateways.gateway_killed),
    Scenario("gateway_rolling_restart", PAIR, gateways.gateway_rolling_restart),
    Scenario("overload_3x", PAIR, overload_3x),
    Scenario("everything_unloaded", PAIR, caches.everything_unloaded),
    Scenario("one_of_three_fails", TRIO, replicas.one_of_three_fails),
    Scenario("one_of_three_slow_10x", TRIO, replicas.one_of_three_slow_10x),
    Scenario("redis_killed_and_slow", TRIO, caches.redis_killed_and_slow),
)
