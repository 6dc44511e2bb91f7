"""What the program of the users is told: whom to ask, what is right, when to ask, and where to write it down."""

import ipaddress
from pathlib import Path

import msgspec

from loadtests.users.load import Load

Outputs = dict[str, list[float]]


class PlanError(Exception):
    """These users can't be sent; the text is one line."""


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    host: str
    port: int
    seed: str
    calm_s: float
    load: Load
    known: dict[str, list[Outputs]]
    """By `model@version` what it answers to each digit. So many digits are asked about."""
    stable: dict[str, list[str]]
    """By model who may answer without a mark."""
    samples: str
    """Where `samples.csv` is to be."""
    timeout_s: float = 15.0
    """An answer that takes so long counts as none."""

    @property
    def images(self) -> int:
        return min(len(answers) for answers in self.known.values())


def read(path: Path) -> Plan:
    """Raises `PlanError`, also for a host that isn't this machine's own."""
    try:
        plan = msgspec.json.decode(path.read_bytes(), type=Plan)
    except (OSError, msgspec.MsgspecError) as error:
        raise PlanError(f"{path}: {error}") from None
    if not is_loopback(plan.host):
        raise PlanError(f"{plan.host} isn't loopback: a load is only sent to this machine")
    return plan


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
