"""A bad version to be watched: published beside the good ones of a running Holdfast, which is then asked steadily.

The rollout itself is for whoever watches to start. `python -m loadtests.rollouts.watched`, or `make bad-canary`.
"""

import argparse
import asyncio
import contextlib
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from loadtests.resilience.answers import Judge, Outputs, digit_documents
from loadtests.resilience.calm import answers_in_calm
from loadtests.resilience.client import NoReply, Pool, encode
from loadtests.resilience.errors import RunError
from loadtests.resilience.figures import Kind, Sample
from loadtests.resilience.load import Load
from loadtests.resilience.schedule import steady
from loadtests.resilience.system import HOST
from loadtests.rollouts.artifacts import Images
from loadtests.rollouts.seen import by_whom
from loadtests.rollouts.store import BETTER, MADE, MODEL, add_made, digit_images, known_answers
from loadtests.terminal import timed

VERSION: Final = "fails-30"
FILE: Final = "loadtests/rollouts/bad-canary.yaml"
IMAGES: Final = 200
LINE_EVERY_S: Final = 5.0
_TIMEOUT_S: Final = 10.0

Say = Callable[[str], None]


def main(argv: Sequence[str] | None = None) -> int:
    """0 when no answer was bad, 1 when one was, 2 when nobody could be asked."""
    options = _parser().parse_args(argv)
    say = timed()

    try:
        samples = asyncio.run(_watched(options, say))
    except RunError as error:
        print(f"bad-canary: {error}", file=sys.stderr)
        return 2
    say(f"the end: {told(samples)}")
    return 0 if all(sample.kind in (Kind.OK, Kind.DEGRADED) for sample in samples) else 1


async def _watched(options: argparse.Namespace, say: Say) -> list[Sample]:
    documents = digit_documents()[:IMAGES]
    with contextlib.closing(Pool(HOST, options.port)) as pool:
        known: dict[str, Sequence[Outputs]] = {
            version: await answers_in_calm(pool, version, documents) for version in await _ready(pool, options.port)
        }
        images, _ = digit_images()
        await _publish(options.store, images, say)
        known.update(await asyncio.to_thread(known_answers, options.store, [VERSION], images[:IMAGES]))
        bodies = [encode("POST", f"/v2/models/{MODEL}/infer", document) for document in documents]
        load = Load(pool, Judge(known, known), lambda arrival: bodies[arrival.image], timeout_s=_TIMEOUT_S)
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, load.stop)
        say(f"{options.rate:g} requests a second for {options.seconds:g} s; Ctrl-C ends it. {FILE} rolls it out")
        telling = asyncio.create_task(_tell(load, say))
        await load.run(steady(options.rate, images=range(IMAGES), at_most_s=options.seconds))
        telling.cancel()
        return load.samples


async def _ready(pool: Pool, port: int) -> list[str]:
    """The versions that answer. Raises `RunError` if nobody says, or if there are none."""
    try:
        _, index = await pool.ask("POST", "/v2/repository/index", {})
    except NoReply as error:
        raise RunError(f"nobody answers at http://{HOST}:{port} ({error}): `make serve` starts a Holdfast") from None
    found = [f"{MODEL}@{each['version']}" for each in index if (each["name"], each["state"]) == (MODEL, "READY")]
    if not found:
        raise RunError(f"no version of {MODEL} is ready at http://{HOST}:{port}")
    return found


async def _publish(store: Path, images: Images, say: Say) -> None:
    if not (store / MODEL / BETTER).is_dir():
        raise RunError(f"--store: no {MODEL}@{BETTER} in {store}")
    if (store / MODEL / VERSION).is_dir():
        say(f"{MODEL}@{VERSION} is in {store} already: {MADE[VERSION].notes}")
        return
    with tempfile.TemporaryDirectory(prefix="hfr-made-") as work:
        await add_made(store, [VERSION], images, work=Path(work))
    say(f"{MODEL}@{VERSION} is published to {store}: {MADE[VERSION].notes}")


async def _tell(load: Load, say: Say) -> None:
    seen = 0
    while True:
        await asyncio.sleep(LINE_EVERY_S)
        new, seen = load.samples[seen:], len(load.samples)
        say(told(new))


def told(samples: Sequence[Sample]) -> str:
    """What clients saw, in one line."""
    kinds = Counter(sample.kind for sample in samples)
    bad = {kind: count for kind, count in kinds.items() if kind not in (Kind.OK, Kind.DEGRADED)}
    by = ", ".join(f"{count} by {version}" for version, count in sorted(by_whom(samples).items()))
    errors = ", ".join(f"{count} {kind}" for kind, count in bad.items()) or "no errors"
    degraded = f", {kinds[Kind.DEGRADED]} of them degraded" if kinds[Kind.DEGRADED] else ""
    return f"{len(samples)} requests, {errors}; answers: {by or 'none'}{degraded}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.rollouts.watched",
        description=f"Publish a bad version of {MODEL} beside a running Holdfast's, and ask that Holdfast steadily.",
    )
    parser.add_argument(
        "--store", type=Path, default=Path(".holdfast/models"), metavar="DIR", help="that it serves from"
    )
    parser.add_argument("--port", type=int, default=8000, help="where it listens (8000)")
    parser.add_argument("--rate", type=_positive, default=60.0, metavar="N", help="requests a second (60)")
    parser.add_argument("--seconds", type=_positive, default=180.0, metavar="N", help="how long (180)")
    return parser


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value <= 3600:
        raise argparse.ArgumentTypeError("must be above 0 and at most 3600")
    return value


if __name__ == "__main__":
    sys.exit(main())
