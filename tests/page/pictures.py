"""The README's pictures of the live page, of a running system: ``python -m tests.page.pictures STORE docs/images``.

It takes some six minutes, most of them calm. Not here: tests.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from tests.browser import Tab, browser
from tests.integration.system import HOST, System, Traffic

MODELS = (
    {
        "name": "digits",
        "versions": ["v1"],
        "fallback": [{"type": "model", "model": "digits-lite"}],
        "breaker": {"open_s": 20.0},
    },
    {"name": "digits-lite", "versions": ["v1"]},
)
ROLLOUT = """\
model: digits
version: v2
steps: [{setWeight: 10}, {pause: {duration: 120s}}, {setWeight: 50}, {pause: {}}, {setWeight: 100}]
bake: {duration: 10m}
"""
CALM_S = 200.0
SOON_S = 90.0


def take(tab: Tab, folder: Path, name: str, *, dark: bool = False, width: int = 1280, height: int = 860) -> None:
    tab.look(width=width, height=height, dark=dark)
    time.sleep(2.5)  # two snapshots, so that plots have their new width
    tab.picture(folder / f"{name}.png", whole=False)


def main(store: str, images: str) -> None:
    folder = Path(images)
    folder.mkdir(parents=True, exist_ok=True)
    system = System(Path(store).resolve(), models=MODELS)
    system.args["faults"] = True
    try:
        system.start()
        system.wait_until_ready()
        with browser() as tab, Traffic(system, "digits", "digits-lite"):
            tab.open(f"http://{HOST}:{system.port}/admin")
            play(tab, system, folder)
    finally:
        system.stop()
        system.remove()


def play(tab: Tab, system: System, folder: Path) -> None:
    tab.until_says("All is fine", "h1", within_s=SOON_S)
    time.sleep(CALM_S)
    take(tab, folder, "live-calm")
    tell(system, "/v2/holdfast/rollouts", {"file": ROLLOUT, "who": "anna", "why": "retrained"})
    tab.until_says("in progress", ".journey", within_s=SOON_S)
    time.sleep(25)
    take(tab, folder, "live-canary", dark=True, height=1120)
    fail(system, "v2", 0.5)
    tab.until_says("rolled back", ".journey", within_s=SOON_S)
    time.sleep(5)
    take(tab, folder, "live-rolled-back", height=1120)
    fail(system, "v1", 1.0)
    tab.until_says("breaker open", "#verdict", within_s=SOON_S)
    time.sleep(12)
    take(tab, folder, "live-outage", height=1120)
    take(tab, folder, "live-phone", dark=True, width=390, height=844)


def fail(system: System, version: str, rate: float) -> None:
    tell(
        system, "/v2/holdfast/faults", {"model": "digits", "version": version, "fault": {"fail_rate": rate, "seed": 1}}
    )


def tell(system: System, path: str, body: object) -> None:
    answer = system.ask("POST", path, body)
    assert answer.status in (200, 201), answer.body


if __name__ == "__main__":
    main(*sys.argv[1:])
