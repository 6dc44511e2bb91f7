"""The program: says `ready`, waits for `go MOMENT` (of the monotonic clock), sends the load, and ends.

It needs a process of its own: locust makes every wait of the whole process one of gevent's.
"""

import json
import logging
import random
import signal
import sys
from pathlib import Path
from typing import Final

import gevent
from gevent.fileobject import FileObjectThread
from locust.env import Environment

from loadtests.resilience.answers import Judge
from loadtests.users import people
from loadtests.users.asking import Requests, digit_images
from loadtests.users.load import Load, arrivals
from loadtests.users.office import Office
from loadtests.users.plan import Plan, PlanError, read

_FIRST: Final = 24
"""Users of each kind that are there before anything is due."""


def main(argv: list[str]) -> int:
    """0 when the load came to its end, 2 when it couldn't begin."""
    try:
        plan = read(Path(argv[0]))
    except (PlanError, IndexError) as error:
        print(f"users: {error if argv else 'name the file of a plan'}", file=sys.stderr)
        return 2
    logging.basicConfig(level=logging.ERROR)
    kinds = [kind for kind, weight in plan.load.users.weights().items() if weight]
    environment = Environment(user_classes=[people.KINDS[kind] for kind in kinds])
    runner = environment.create_local_runner()
    office = Office(Path(plan.samples), lambda kind, count: runner.spawn_users({people.KINDS[kind].__name__: count}))
    _prepare(plan, office)
    for kind in kinds:
        office.employ(kind, _FIRST)
    gevent.sleep(0.1)
    print("ready", flush=True)
    word, _, moment = FileObjectThread(sys.stdin).readline().partition(" ")
    if word != "go":
        return 2
    office.began = float(moment)
    writing = gevent.spawn(office.keep_writing)
    sending = gevent.spawn(office.send, arrivals(plan.load, random.Random(plan.seed), calm_s=plan.calm_s))
    gevent.signal_handler(signal.SIGTERM, sending.kill, block=False)
    gevent.signal_handler(signal.SIGINT, sending.kill, block=False)
    sending.join()
    office.finish(plan.timeout_s + 2)
    writing.kill()
    office.close()
    print(json.dumps(_told(environment, plan.load)), flush=True)
    runner.quit()
    return 0


def _prepare(plan: Plan, office: Office) -> None:
    people.Client.office = office
    people.Client.plan = plan
    people.Client.requests = Requests(
        digit_images(plan.images), timeout_s=plan.load.timeout, body_bytes=plan.load.body_bytes
    )
    people.Client.judges = {model: Judge(plan.known, stable) for model, stable in plan.stable.items()}


def _told(environment: Environment, load: Load) -> dict[str, object]:
    """What the last line says: locust's own count, and the first answer of each way to be bad."""
    total = environment.stats.total
    examples = {key: text for judge in people.Client.judges.values() for key, text in judge.examples.items()}
    return {"requests": total.num_requests, "failures": total.num_failures, "examples": examples, "rate": load.rate}
