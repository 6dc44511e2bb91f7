"""Whether a scenario held, and if not, why. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from loadtests.resilience.figures import Check, Figures, Kind


@dataclass(frozen=True)
class Demands:
    """What a scenario asks of its figures. That nothing is wrong or unmarked is asked of all."""

    client_errors: bool = False
    """Whether clients may see errors. Without any answer nobody may be left in any case."""
    degraded_at_least: int = 0
    """Fewer mean that the fault didn't do what it should, and that nothing was tried."""
    degraded_share: float = 1.0
    """More mean that a fallback did what another replica should have done."""
    recover_within_s: float | None = None
    met_by: tuple[str, ...] = ()
    """Ways in which attempts at the stable version must have ended, any of them; else the fault met nobody."""


@dataclass(frozen=True)
class Result:
    """A scenario's row with its verdict."""

    name: str
    figures: Figures | None
    """None if it came to no end."""
    complaints: Sequence[str]
    notes: Sequence[str] = ()

    @property
    def held(self) -> bool:
        return not self.complaints


def complaints(figures: Figures, demands: Demands, checks: Sequence[Check] = ()) -> list[str]:
    """Everything that speaks against it, the worst first."""
    found = []
    if wrong := figures.count(Kind.WRONG):
        found.append(f"{wrong} wrong answers")
    if unmarked := figures.count(Kind.UNMARKED):
        found.append(f"{unmarked} degraded answers without a mark")
    if lost := figures.count(Kind.LOST):
        found.append(f"{lost} without any answer")
    if (failed := figures.count(Kind.FAILED)) and not demands.client_errors:
        statuses = [f"{count} {note}" for note, count in sorted(figures.notes.items()) if note.startswith("failed")]
        found.append(f"{failed} client errors ({', '.join(statuses)})")
    degraded = figures.count(Kind.DEGRADED)
    if degraded < demands.degraded_at_least:
        found.append(f"{degraded} degraded answers: the fault can't have worked")
    if degraded > demands.degraded_share * figures.requests:
        found.append(f"{degraded} degraded answers, more than {demands.degraded_share:.0%}")
    if demands.recover_within_s is not None:
        found += _late(figures, demands.recover_within_s)
    return found + [check.text for check in checks if not check.held]


def _late(figures: Figures, within_s: float) -> list[str]:
    never = sum(recovery is None for recovery in figures.recoveries_s)
    if never:
        return [f"not back to normal after {never} of {len(figures.recoveries_s)} faults"]
    if not figures.recoveries_s:
        return ["no fault happened"]
    longest = figures.recovery_s or 0.0
    return [f"recovered only after {longest:.1f} s, not within {within_s:g} s"] if longest > within_s else []
