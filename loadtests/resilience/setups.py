"""The settings of the systems under test, the scenarios that each is for, and how to take a protection away. Pure.

Names of settings as docs/settings.md has them.
"""

from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, Final, NamedTuple

PAIR: Final = "pair"
"""Two replicas of each version of digits."""
TRIO: Final = "trio"
"""Three replicas of digits@v2, and a Redis."""

TIMEOUT_MS: Final = 3000

Arguments = dict[str, Any]


def arguments(setup: str, *, store: Path, static: Mapping[str, Any], redis_url: str | None) -> Arguments:
    """The `args` of the application, without ports and folders."""
    return {
        "store": str(store.resolve()),
        "faults": True,
        "gateway": {"replicas": 2},
        "models": [_digits(setup, static), _model("digits-lite", ["v1"], 1)],
    } | ({"cache": {"redis_url": redis_url}} if redis_url is not None else {})


def _digits(setup: str, static: Mapping[str, Any]) -> dict[str, Any]:
    prior = [{"type": "version", "version": "v1"}] if setup == PAIR else []
    chain = [
        *prior,
        {"type": "model", "model": "digits-lite"},
        {"type": "cache"},
        {"type": "static", "outputs": dict(static)},
    ]
    model = _model("digits", ["v1", "v2"] if setup == PAIR else ["v2"], 2 if setup == PAIR else 3)
    return model | {"stable": "v2", "fallback": chain}


def _model(name: str, versions: list[str], replicas: int) -> dict[str, Any]:
    return {"name": name, "versions": versions, "replicas": replicas, "timeout_ms": TIMEOUT_MS}


class Protection(NamedTuple):
    """Something that can be switched off, and the scenarios that fail then."""

    off: Callable[[Arguments], None]
    scenarios: tuple[str, ...]


def without(protection: str, settings: Arguments) -> Arguments:
    """The same settings with a protection switched off."""
    changed = deepcopy(settings)
    PROTECTIONS[protection].off(changed)
    return changed


def _disable(name: str) -> Callable[[Arguments], None]:
    def off(settings: Arguments) -> None:
        for model in settings["models"]:
            model[name] = {"enabled": False}

    return off


def _no_fallback(settings: Arguments) -> None:
    for model in settings["models"]:
        model["fallback"] = []


def _no_retry(settings: Arguments) -> None:
    """Fallbacks would answer what the retry should have."""
    _disable("retry")(settings)
    _no_fallback(settings)


def _no_cache(settings: Arguments) -> None:
    for model in settings["models"]:
        model["fallback"] = [entry for entry in model.get("fallback", ()) if entry["type"] != "cache"]


def _no_resend(settings: Arguments) -> None:
    settings.setdefault("http", {})["resend_max_bytes"] = 1


PROTECTIONS: Final[Mapping[str, Protection]] = {
    "retry": Protection(_no_retry, ("replica_killed_every_5s",)),
    "breaker": Protection(_disable("breaker"), ("all_primary_too_slow",)),
    "ejection": Protection(_disable("ejection"), ("one_of_three_fails", "one_of_three_slow_10x")),
    "admission": Protection(_disable("admission"), ("overload_3x",)),
    "fallback": Protection(_no_fallback, ("all_primary_killed",)),
    "resend": Protection(_no_resend, ("gateway_killed",)),
    "cache": Protection(_no_cache, ("everything_unloaded",)),
}
