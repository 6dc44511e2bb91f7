"""What the gateways last said of the replica they are connected to. Pure.

Not here: how they say it (``serving.channel.messages``), and what is done about it (``serving.health``).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from serving.channel.work import Report

FRESH_S: Final = 5.0
"""A report older than this says nothing any more; gateways report with every ping."""


class _Heard(NamedTuple):
    report: Report
    at: float


class Reports:
    """The latest report of each connected gateway; times in monotonic seconds."""

    def __init__(self) -> None:
        self._latest: dict[object, _Heard] = {}

    def heard(self, gateway: object, report: Report, *, now: float) -> None:
        self._latest[gateway] = _Heard(report, now)

    def forget(self, gateway: object) -> None:
        """The gateway isn't connected any more."""
        self._latest.pop(gateway, None)

    def demand(self, now: float) -> float:
        """Requests that wait or are in flight for this replica, in all gateways together."""
        return sum(max(0.0, report.demand) for report in self._fresh(now))

    def ejected_s(self, now: float) -> float:
        """For how many seconds every gateway has had the replica ejected; 0 if one hasn't, or none is connected."""
        return min((report.ejected_s for report in self._fresh(now)), default=0.0)

    def _fresh(self, now: float) -> Iterable[Report]:
        return (heard.report for heard in self._latest.values() if now - heard.at <= FRESH_S)
