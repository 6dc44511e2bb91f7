"""Writes docs/rollouts.md, and the rollout file's JSON Schema, from the types and the table of a rollout. Pure.

``python -m serving.rollout_doc`` prints the page, with ``--schema`` the schema; ``make docs`` writes both. Not here:
what a key means; its own description in ``serving.rollout.spec`` says so.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from datetime import UTC
from typing import Final

import msgspec

from serving.commands.screen import render
from serving.rollout.analysis import COMPARISON, OTHERS
from serving.rollout.events import ClockTick, Observed, VersionFailed, VersionGone, VersionReady, WeightApplied
from serving.rollout.evidence import EProcess, Tally, VariantCounts, agreement, e_value, relative
from serving.rollout.report import EvidenceReport, PauseReport, RolloutReport, StepReport
from serving.rollout.spec import DURATION_PATTERN, RolloutSpec
from serving.rollout.state import OVER, TABLE, Passage, Phase
from serving.settings_doc import DIALECT, Schema, Section, Setting, sections_of

EXAMPLE: Final = """\
model: digits
version: v2                # the canary
from: v1                   # refused if another version is stable
steps:
  - {setWeight: 5}         # percent of the requests
  - {pause: {duration: 60s}}
  - {setWeight: 25}
  - {pause: {}}            # until `holdfast rollout resume`
  - {setWeight: 100}
analysis:
  alpha: 0.01
  minAttempts: 100
  latencyObjective: 250ms
  slo: {objective: 0.999, burnRates: [{long: 5m, short: 30s, factor: 14.4}], minBadEvents: 10}
  invalidMax: 0.01
  shadow: {agreement: 0.95, minCompared: 100}
progressDeadline: 10m
bake: {duration: 10m}
onBreach: rollback
"""

_ALPHA: Final = 0.01
_BEGAN: Final = 1_764_000_000.0
_SEEN: Final = EProcess(
    tallies=(Tally(0.05, 2, 24), Tally(0.25, 9, 13)),
    canary=VariantCounts(740, 11, slow=1),
    stable=VariantCounts(9260, 37, slow=12),
    compared=170,
    agreed=167,
)

EXAMPLE_REPORT: Final = RolloutReport(
    rollout="digits-1",
    model="digits",
    version="v2",
    prior="v1",
    phase=Phase.PROGRESSING.value,
    reason="digits@v2 has 25 % of the requests",
    over=False,
    settled=False,
    started_by="anna",
    started_at=_BEGAN,
    since=_BEGAN + 97,
    at=_BEGAN + 134,
    step=2,
    steps=(
        StepReport(set_weight=5),
        StepReport(pause=PauseReport("60s")),
        StepReport(set_weight=25),
        StepReport(pause=PauseReport()),
        StepReport(set_weight=100),
    ),
    weight=25,
    open=None,
    waiting_for="60 more first attempts at 25 %",
    can=("pause", "promote", "abort", "rollback"),
    findings=(
        relative(_SEEN, _ALPHA * COMPARISON),
        agreement(_SEEN.compared, _SEEN.agreed, 0.9, 100, alpha=_ALPHA * OTHERS),
    ),
    evidence=EvidenceReport(
        e_value=e_value(_SEEN),
        threshold=1 / (_ALPHA * COMPARISON),
        canary=_SEEN.canary,
        stable=_SEEN.stable,
        here=VariantCounts(340, 9, slow=1),
        compared=_SEEN.compared,
        agreed=_SEEN.agreed,
    ),
    budget_left=0.257,
    bake=None,
    here_s=37.0,
    history=(Passage(Phase.PROGRESSING, 1, 5, _BEGAN + 12, _BEGAN + 97, 400, 2, "25 % is being published"),),
    rollback_took_s=None,
    rolled_back_before="",
)
EXAMPLE_SCREEN: Final = "".join(f"{line}\n" for line in render(EXAMPLE_REPORT, 80, color=False, zone=UTC))

_HEAD: Final = f"""\
# Rollouts

Written by `make docs` from `serving/rollout/spec.py` and `serving/rollout/state.py`; change it there.

A rollout brings a new version of a model to all requests step by step, and takes it back by itself if something speaks
against it. A file says how, in words that Argo Rollouts and Flagger use, too:

```yaml
{EXAMPLE}```

Only `model`, `version` and `steps` are required. Durations are whole numbers with a unit: `500ms`, `30s`, `5m`, `1h`. A
file with a mistake is refused before anything happens, with the line and the key; `holdfast rollout lint` tells all
mistakes at once. [rollout.schema.json](rollout.schema.json) is the JSON Schema, for editors. Beyond it, weights only go
up, the first step is a weight and the last weight is 100.

## Commands

```sh
holdfast rollout lint canary.yaml                        # all mistakes of a file; asks nobody
holdfast rollout start -f canary.yaml --why "more accurate"
holdfast rollout watch digits                            # live, until it is over
holdfast rollout status                                  # a line for each model
holdfast rollout status digits                           # all there is to know of one
holdfast rollout pause digits --why "look at the logs"   # likewise resume, promote, abort, rollback
holdfast rollout history digits                          # a line for each event
holdfast replay                                          # does every decision come out again?
```

All but `lint` and `replay` ask the running system, at the address that the settings name (`-c`). What changes something
sends the token of the settings, or of `--token-file`, and says who did it: your login name, or `--who`. `--json` gives
programs what the [API](api.md) gave.

- `start` reads the file first: one with mistakes is told in full and never sent.
- `pause` keeps the weight as it is; what speaks against the version takes it back all the same. `resume` goes on.
- `promote` leaves out the steps that are left. `abort` sends all requests to the prior version; `rollback` does, too,
  and marks the version as bad.
- `watch` is drawn anew twice a second, and goes on when nobody answers for a moment. With `--plain`, or into a pipe, it
  is a line for each change. Colours leave with `NO_COLOR`.
- `history` has one line for windows that follow one another; with `--all` each its own.
- `replay` reads the event log itself (`--log` names another one, a path or a URL) and takes every decision again, up to
  the end or to event `--until`.

| Exit code | Meaning |
|---|---|
| 0 | Done. `watch`: the rollout succeeded. `replay`: every decision matches byte for byte. |
| 1 | Refused, or nobody answers. `watch`: it was taken back. `replay`: a decision differs, or the log is damaged. |
| 2 | Wrong arguments, or a file with mistakes: nothing was sent. `replay`: there is no such log or event. |

What `holdfast rollout status digits` and `watch` show:

```text
{EXAMPLE_SCREEN}```

The bar of the evidence is full when there is enough of it to take the version back; every factor of evidence has the
same length on it. **here** are the first attempts at the weight in force, the other rows are of the whole rollout.

## What happens

1. The version is checked, deployed, and has to pass its golden test. Until it is ready it gets no requests. That may
   take two minutes, whatever `progressDeadline` says; one that isn't ready by then is taken back.
2. Each `setWeight` gives it so many percent of the requests. It gets the next weight, or is promoted, when all pauses
   between are over, it has had `minAttempts` at this weight, all gateways report, and nothing speaks against it.
3. After the last step it is promoted: it is the stable version. The prior version stays deployed and warm while it
   bakes, and is ended after that.

Whatever speaks against it takes it back, also in a pause and in the bake (with `onBreach: pause` the weight stays and a
person decides, unless the version never became ready):

- **relative**: more of the bad first attempts are its own than its weight explains. Bad is what fails, times out, takes
  longer than `latencyObjective`, or breaks the signature: there is no limit of its own for slow answers, a canary that
  has more of them than its weight explains is taken back. An outage that hits both versions alike says nothing.
- **burn_rate**: it uses up the error budget too fast, and it is shown that this is its doing. Beside the stable version
  the comparison has to show that; until it does, a budget that burns only keeps the canary from getting more. At 100 %
  and in the bake there is nobody to compare with: it has to be more than chance, and an outage of everything takes the
  canary back, too.
- **validity**: its answers break its signature more often than `invalidMax`.
- **agreement**: mirrored answers agree less often than `shadow.agreement`. Each counts, so a client that sends the same
  input again and again, as a probe does, weighs as much as many.
- **ready**, **version**: it wasn't ready by the deadline, failed its golden test, or crashes again and again.

The first four together take back a canary that is no worse than the stable version, and within its limits, in at most
`alpha` of all rollouts, however long they last and however often they are looked at ([judgement.md](judgement.md)).
That is for requests that fail independently of each other: a client that asks for the same bad thing again and again
counts once in the comparison, but uses up the budget each time. A rollout is judged to its end by the rules that it
began with, also if Holdfast is updated meanwhile, so `replay` comes out the same with every later version
([why](adr/0029-one-alpha-for-a-whole-rollout.md)).

Figures that are missing never take it back: after `metricsTimeout` the rollout pauses. It pauses, too, if it doesn't
come to `minAttempts` by `progressDeadline`. A resume after a pause for a breach forgives: evidence starts from nothing.
A bake that pauses because too few requests came goes on without them when a person resumes it.
Time in which no controller watched counts for 30 s at most.

A version that was rolled back is marked so in the event log, and gets no requests until a rollout of it is started;
`load` of it is answered 409, also after a restart. One that a person aborted isn't marked.

## Choosing the numbers

The canary's **first attempts** are what counts, and it gets only its share of the requests: `minAttempts: 100` at 5 %
takes 2 000 requests to the model. So the traffic decides what is possible:

| | at 1 request/s | at 15 | at 150 |
|---|---:|---:|---:|
| `minAttempts: 100` at 5 % | 33 min | 2 min | 13 s |
| `minAttempts: 100` at 25 % | 7 min | 27 s | 3 s |
| 30 % bad at 5 % is taken back after | 3 min | 13 s | 1 s |
| 5 % bad at 5 % | 29 min | 2 min | 12 s |
| 5 % bad at 20 % | 9 min | 37 s | 4 s |
| 2 % bad at 20 % | 46 min | 3 min | 18 s |

The last four are medians of simulated rollouts by evidence alone, where stable fails 0.5 %
([judgement.md](judgement.md)). What follows:

- **`progressDeadline`** must be longer than the slowest step and the bake need for `minAttempts`. With the default of
  10 minutes and 1 request a second, a step of 5 % pauses.
- **`minAttempts`** isn't what protects: evidence looks at every attempt and takes back as soon as it is enough. It
  keeps a canary that nobody has asked yet from growing. 100 is good; 20 for little traffic; more than 500 only takes
  time.
- **Weights.** Little traffic: begin at 20 %. Much: begin at 1 or 5 %, so that few callers meet a bad one. Each step of
  two to five times the weight before.
- **`alpha`** is the chance that a healthy canary is taken back, over the whole rollout. 0.01 wants evidence 100, 0.001
  wants 1000, and so some more bad attempts.
- **`slo.burnRates`** see what evidence can't: a canary that has all requests, with none of stable's to compare. The
  long window must be able to hold `minBadEvents`: at 1 request a second it has 60 first attempts at 20 % in 5 minutes,
  so ten bad ones are a sixth of all. Take longer windows there.
- **`bake`**: as long as trouble may take to show, and long enough for `minAttempts`.

For one request a second:

```yaml
model: digits
version: v2
steps: [{{setWeight: 20}}, {{setWeight: 50}}, {{setWeight: 100}}]
analysis:
  minAttempts: 20
  slo: {{objective: 0.999, burnRates: [{{long: 1h, short: 5m, factor: 14.4}}], minBadEvents: 5}}
progressDeadline: 1h
bake: {{duration: 1h}}
```

What files of others say, and what stands for it here; a key that isn't known is refused, not left out:

| There | Here |
|---|---|
| Argo Rollouts: `setWeight`, `pause` | the same |
| `analysis.templates`; Flagger: `metrics`, `interval`, `threshold` | `analysis`; the gateways' own counts |
| Flagger: `stepWeight`, `maxWeight`, `stepWeights` | `steps` |
| `request-success-rate`, `request-duration` | `analysis.slo.objective`, `analysis.latencyObjective` |
| `setMirrorRoute`, `mirror` | `analysis.shadow` |
| `setHeaderRoute`, `match`, `sessionAffinity` | stickiness keys; nobody is chosen by what he is |
| `experiment`, `blueGreen` | an A/B test (below); `steps: [{{setWeight: 100}}]` |
| `progressDeadlineSeconds`, `scaleDownDelaySeconds` | `progressDeadline`, `bake` |
| `webhooks` that confirm | `pause: {{}}`, and a person or a program that says `resume` |
| `setCanaryScale`, `maxSurge`, `trafficRouting` | nothing: a canary has the model's `replicas`, the gateways route |

## After a rollout

Which version is stable is then in two places: the event log, and `stable` (or the last of `versions`) in
`serve_config.yaml`. The log wins, at every start, as long as the settings name one of the two versions of the model's
last rollout:

| The last rollout, v1 → v2 | The settings call stable | Stable after a start |
|---|---|---|
| succeeded | v1 or v2 | v2 |
| was rolled back or aborted | v1 or v2 | v1 |
| either | v3, of which it knew nothing | v3 |
| is under way | whatever | as the rollout stands; it goes on |

- **If the settings still call v1 stable, it isn't started** any more: the index says `replaced by v2`. All others of
  `versions` are, but those that were rolled back. To keep v1 as what stands behind v2, write both into `versions`,
  v2 into `stable` and v1 into `fallback`.
- **To go back after the bake, roll the other version out**: the same file with `version: v1`. With
  `steps: [{{setWeight: 100}}]` and `analysis: {{minAttempts: 1}}` it has all requests as soon as it is ready.
  `stable: v1` in the settings doesn't do it, because the last rollout knew v1.
- **Write the new version into `serve_config.yaml`** once it has proved itself, into `versions` and, if it stands there,
  `stable`. It changes nothing while the log is there, and it is what counts if the log is lost or put aside, or if
  somebody starts with an empty `state_dir`.
- **`load` and `unload`** last until the next start; what rollouts did lasts as long as the log. While a rollout isn't
  over and done with, they are refused.

`holdfast status` shows what is stable now, `holdfast replay` what the log says.

## A/B tests

To compare two versions rather than to replace one, let the rollout wait for a person at the weight of the test:

```yaml
steps: [{{setWeight: 50}}, {{pause: {{}}}}, {{setWeight: 100}}]
```

Requests with the same stickiness key (the header `x-sticky-key`, or `sticky_key` in the request's parameters) get the
same version for as long as the weight stays; those without one are thrown each by itself. Every answer says in
`holdfast-version` who gave it, so that callers can join it with what came of it. `holdfast_canary_attempts_total` has
the outcomes of both versions side by side, `holdfast_requests_total` and `holdfast_request_duration_seconds` have all
others by version. What speaks against the canary takes it back all the same. `promote` ends the test in its favour,
`abort` in the other's.

## Phases

"""
_AFTER_DIAGRAM: Final = """
`Pause`, `Resume`, `Promote`, `Abort` and `Rollback` are what a person says, `VersionReady` and `WeightApplied` what is
seen of the world, the others are decisions. What has no arrow is refused, and the refusal says what is possible.
"""
_TABLE_HEAD: Final = "| Key | Type | Default | Meaning |\n|---|---|---|---|\n"
_HEARD: Final = (ClockTick, Observed, VersionReady, VersionFailed, WeightApplied, VersionGone)


def rollout_schema() -> Schema:
    """The JSON Schema of a rollout file."""
    return {"$schema": DIALECT, "title": "Holdfast rollout", **msgspec.json.schema(RolloutSpec)}


def schema_text() -> str:
    """The text of docs/rollout.schema.json."""
    return json.dumps(rollout_schema(), indent=2) + "\n"


def rollout_page() -> str:
    """The text of docs/rollouts.md."""
    keys = "".join(map(_section_text, sections()))
    return f"{_HEAD}```mermaid\n{diagram()}```\n{_AFTER_DIAGRAM}\n## The file\n{keys}"


def sections() -> list[Section]:
    """All keys: the outermost, then struct by struct."""
    return [
        section._replace(settings=tuple(map(_readable, section.settings))) for section in sections_of(rollout_schema())
    ]


def diagram() -> str:
    """The table of moves as a Mermaid state diagram. What is only heard, and leads nowhere else, has no arrow."""
    lines = [f"    {source} --> {target}: {label}" for source, target, label in _arrows()]
    ends = [f"    {phase.value} --> [*]" for phase in Phase if phase in OVER]
    return "\n".join(["stateDiagram-v2", "    [*] --> Pending: Start", *lines, *ends]) + "\n"


def _arrows() -> Iterator[tuple[str, str, str]]:
    for phase, moves in TABLE.items():
        labels: dict[Phase, list[str]] = {}
        for kind, targets in moves.items():
            for target in targets:
                if target is not phase or kind not in _HEARD:
                    labels.setdefault(target, []).append(kind.__name__)
        for target, names in labels.items():
            yield phase.value, target.value, ", ".join(names)


def _readable(setting: Setting) -> Setting:
    return setting._replace(type=setting.type.replace(f"`{DURATION_PATTERN.strip('^$')}`", "duration"))


def _section_text(section: Section) -> str:
    title = f"`{section.path}`" if section.path else "At the top level"
    meaning = f"{section.meaning}\n\n" if section.meaning else ""
    rows = [f"| `{key.path}` | {key.type} | {key.default} | {key.meaning} |\n" for key in section.settings]
    return f"\n### {title}\n\n{meaning}{_TABLE_HEAD}{''.join(rows)}"


if __name__ == "__main__":
    sys.stdout.write(schema_text() if "--schema" in sys.argv[1:] else rollout_page())
