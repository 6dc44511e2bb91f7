"""The newest incidents as anyone may see them: what failed, and nothing of what was asked, answered or said of it.

Texts may quote a caller's values, and whoever reads those has to show that they may. Not here: the store
(``serving.incidents.store``).
"""

from __future__ import annotations

from typing import Final

from serving.incidents.incident import IncidentLine
from serving.incidents.store import IncidentStore, StoreUnreadable, Wanted
from serving.live.snapshot import IncidentKept, Incidents

NEWEST_MAX: Final = 8


def newest_in(store: IncidentStore) -> Incidents:
    """None of a store that can't be read: that is told elsewhere."""
    try:
        page = store.page(Wanted(limit=NEWEST_MAX))
    except StoreUnreadable:
        return Incidents()
    return Incidents(page.kept, tuple([_shown(line) for line in page.incidents]))


def _shown(line: IncidentLine) -> IncidentKept:
    return IncidentKept(
        id=line.id,
        time=round(line.wall, 3),
        model=line.model,
        version=line.version,
        outcome=line.outcome,
        failure=line.failure,
        answered_by=line.answered_by,
    )
