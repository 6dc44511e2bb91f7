"""The scenarios that come with it, one file each in `scenarios/`."""

from pathlib import Path
from typing import Final

from loadtests.chaos.spec import Scenario, ScenarioError, parse

FOLDER: Final = Path(__file__).parent / "scenarios"


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load(name: str) -> Scenario:
    """By name, or by the path of a file. Raises `ScenarioError`."""
    known = names()
    path = FOLDER / f"{name}.yaml" if name in known else Path(name)
    if name not in known and path.suffix not in (".yaml", ".yml"):
        raise ScenarioError(f"there is no scenario {name!r}; there are {', '.join(known)}")
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise ScenarioError(f"{path}: {reason}") from None
    return parse(text, path.name)


def everything() -> list[Scenario]:
    return [load(name) for name in names()]


def together() -> list[Scenario]:
    """Those that are played one after the other when nobody names one."""
    return [scenario for scenario in everything() if not scenario.alone]
