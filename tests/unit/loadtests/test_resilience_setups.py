"""The settings of the resilience run are such as Holdfast takes, also with a protection switched off."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtests.resilience.answers import STATIC_OUTPUTS
from loadtests.resilience.scenarios import SCENARIOS
from loadtests.resilience.setups import PAIR, PROTECTIONS, TRIO, Arguments, arguments, without
from serving.settings import Settings, parse_settings


def made(setup: str) -> Arguments:
    return arguments(setup, store=Path("store"), static=STATIC_OUTPUTS, redis_url="redis://127.0.0.1:1/0")


@pytest.mark.parametrize("setup", [PAIR, TRIO])
def test_holdfast_takes_the_settings(setup: str) -> None:
    settings = parse_settings(made(setup))
    digits = settings.model("digits")
    assert digits is not None
    assert digits.stable_version == "v2"
    assert digits.replicas == (2 if setup == PAIR else 3)
    assert digits.caches
    assert settings.faults


def is_off(protection: str, settings: Settings) -> bool:
    digits = settings.model("digits")
    assert digits is not None
    match protection:
        case "fallback":
            return not digits.fallback
        case "resend":
            return settings.http.resend_max_bytes < 100
        case "cache":
            return not digits.caches
        case _:
            return not getattr(digits, protection).enabled


@pytest.mark.parametrize("protection", PROTECTIONS)
@pytest.mark.parametrize("setup", [PAIR, TRIO])
def test_a_protection_is_off_only_where_it_is_switched_off(protection: str, setup: str) -> None:
    settings = made(setup)
    assert is_off(protection, parse_settings(without(protection, settings)))
    assert not is_off(protection, parse_settings(settings))


@pytest.mark.parametrize("protection", PROTECTIONS)
def test_for_every_protection_there_are_scenarios_that_need_it(protection: str) -> None:
    names = {scenario.name for scenario in SCENARIOS}
    assert PROTECTIONS[protection].scenarios
    assert set(PROTECTIONS[protection].scenarios) <= names
