"""Where labels go so that none lies on another. Pure: widths are guessed from the number of characters."""

from collections.abc import Sequence

NARROW = frozenset("iljtfr.,:;|!'()[] ")
WIDE = frozenset("mwMW@%")
ELLIPSIS = "\u2026"


def width(label: str, size: float) -> float:
    """Rather too wide than too narrow: which font the reader has is unknown."""
    units = sum(0.34 if char in NARROW else 0.92 if char in WIDE else 0.72 if char.isupper() else 0.6 for char in label)
    return units * size


def shorten(label: str, room: float, size: float) -> str:
    """The label, cut with an ellipsis if it would be wider than the room there is."""
    if width(label, size) <= room:
        return label
    while label and width(label + ELLIPSIS, size) > room:
        label = label[:-1]
    return label.rstrip() + ELLIPSIS


def lanes(spans: Sequence[tuple[float, float]], *, gap: float) -> list[int]:
    """For each span the first lane in which nothing lies that it would touch."""
    taken: list[list[tuple[float, float]]] = []
    chosen = []
    for start, end in spans:
        free = (
            number
            for number, lane in enumerate(taken)
            if all(end + gap <= other_start or other_end + gap <= start for other_start, other_end in lane)
        )
        lane = next(free, len(taken))
        if lane == len(taken):
            taken.append([])
        taken[lane].append((start, end))
        chosen.append(lane)
    return chosen


def spread(wanted: Sequence[float], *, low: float, high: float, gap: float) -> list[float]:
    """Places near the wanted ones, in their order, at least `gap` apart and between low and high.

    If there are too many for that, they are closer, evenly.
    """
    if not wanted:
        return []
    gap = min(gap, (high - low) / max(1, len(wanted) - 1)) if len(wanted) > 1 else gap
    order = sorted(range(len(wanted)), key=lambda number: wanted[number])
    places = [min(high, max(low, wanted[number])) for number in order]
    for at in range(1, len(places)):
        places[at] = max(places[at], places[at - 1] + gap)
    limit = high
    for at in range(len(places) - 1, -1, -1):
        places[at] = min(places[at], limit)
        limit = places[at] - gap
    found = [0.0] * len(wanted)
    for number, place in zip(order, places, strict=True):
        found[number] = place
    return found


def clusters(places: Sequence[float], *, gap: float) -> list[list[int]]:
    """Indexes of places (ascending), together where they are closer than the gap."""
    groups: list[list[int]] = []
    for number, place in enumerate(places):
        if groups and place - places[groups[-1][-1]] < gap:
            groups[-1].append(number)
        else:
            groups.append([number])
    return groups


def rows(widths: Sequence[float], *, room: float, gap: float) -> list[list[int]]:
    """Indexes of labels side by side, line after line, as words in a paragraph."""
    lines: list[list[int]] = []
    used = room
    for number, needed in enumerate(widths):
        if lines and used + gap + needed <= room:
            lines[-1].append(number)
            used += gap + needed
        else:
            lines.append([number])
            used = needed
    return lines
