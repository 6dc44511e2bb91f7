"""All scenarios, in the order of the table."""

from typing import Final

from loadtests.rollouts import bad, cached, controllers, good, logs
from loadtests.rollouts.scenario import POSTGRES, SQLITE, Scenario
from loadtests.rollouts.store import GOLDEN_BROKEN

# Those of one system stand together.
SCENARIOS: Final[tuple[Scenario, ...]] = (
    Scenario("good", SQLITE, good.good),
    Scenario("fails_30", SQLITE, bad.fails_30, ("fails-30",)),
    Scenario("slow_10x", SQLITE, bad.slow_10x, ("slow-10x",)),
    Scenario("nan_50", SQLITE, bad.nan_50, ("nan-50",)),
    Scenario("golden_fails", SQLITE, bad.golden_fails, (GOLDEN_BROKEN,)),
    Scenario("crash_loop", SQLITE, bad.crash_loop, ("crashes",)),
    Scenario("bad_in_the_bake", SQLITE, bad.bad_in_the_bake, ("late",)),
    Scenario("shared_outage", SQLITE, good.shared_outage),
    Scenario("controller_killed", SQLITE, controllers.controller_killed),
    Scenario("controller_killed_back", SQLITE, controllers.controller_killed_back, ("late",)),
    Scenario("controller_away", SQLITE, controllers.controller_away, ("late",)),
    Scenario("two_controllers", SQLITE, controllers.two_controllers),
    Scenario("no_cached_answer", SQLITE, cached.no_cached_answer, ("late",)),
    Scenario("log_altered", SQLITE, logs.log_altered),
    Scenario("log_torn", SQLITE, logs.log_torn),
    Scenario("disk_full", SQLITE, logs.disk_full),
    Scenario("postgres_gone", POSTGRES, logs.postgres_gone),
)
