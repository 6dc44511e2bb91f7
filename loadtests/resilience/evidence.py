"""What the system's own counters say of a scenario: whether the fault was met at all, and by what."""

from collections.abc import Iterable, Mapping

from prometheus_client.parser import text_string_to_metric_families

Counters = Mapping[tuple[str, str, str], float]
"""By name without `_total`, version as `digits@v2`, and what it counts: an outcome, a fallback's kind, or nothing."""

ATTEMPTS = "holdfast_attempts"
RETRIES = "holdfast_retries"
DEGRADED = "holdfast_degraded_answers"
_LABEL_OF = {ATTEMPTS: "outcome", RETRIES: "", DEGRADED: "by"}


def counters(text: str) -> dict[tuple[str, str, str], float]:
    """Those that matter here, out of `/metrics`."""
    found: dict[tuple[str, str, str], float] = {}
    for family in text_string_to_metric_families(text):
        if family.name not in _LABEL_OF:
            continue
        for sample in family.samples:
            if not sample.name.endswith("_total"):
                continue
            version = f"{sample.labels.get('model')}@{sample.labels.get('version')}"
            key = (family.name, version, sample.labels.get(_LABEL_OF[family.name], ""))
            found[key] = found.get(key, 0.0) + sample.value
    return found


def grown(before: Counters, after: Counters) -> dict[tuple[str, str, str], int]:
    """What was counted in between. A counter that is lower than before began anew with its system."""
    growth = {}
    for key, value in after.items():
        more = value - before.get(key, 0.0)
        if (count := round(value if more < 0 else more)) > 0:
            growth[key] = count
    return growth


def described(growth: Mapping[tuple[str, str, str], int]) -> list[str]:
    """A line for each version with attempts that failed or were made again."""
    lines = []
    for version in sorted({version for _, version, _ in growth}):
        attempts = {what: count for (name, at, what), count in growth.items() if (name, at) == (ATTEMPTS, version)}
        retries = growth.get((RETRIES, version, ""), 0)
        failed = [f"{count} {what}" for what, count in sorted(attempts.items()) if what != "ok"]
        if failed or retries:
            lines.append(
                f"attempts at {version}: {attempts.get('ok', 0)} ok, {', '.join(failed) or 'none failed'}; "
                f"{retries} of them were further ones"
            )
    return lines


def missing(growth: Mapping[tuple[str, str, str], int], version: str, outcomes: Iterable[str]) -> str | None:
    """A complaint if no attempt at the version ended in any of these ways: then the fault met nobody."""
    wanted = tuple(outcomes)
    if not wanted or any(growth.get((ATTEMPTS, version, outcome)) for outcome in wanted):
        return None
    return f"no attempt ended in {' or '.join(wanted)}: the fault met nobody"
