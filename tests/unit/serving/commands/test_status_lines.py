"""One screen says whether a node is fine, and what is wrong if not; nothing in it can do anything to a terminal."""

from __future__ import annotations

from datetime import UTC
from pathlib import Path

import msgspec
import pytest

from serving.commands.status_lines import MANY, status_lines
from serving.commands.terminal import drawn
from serving.live.snapshot import Admin, BreakerView, LiveEvent, ReplicaView, Snapshot, Verdict
from serving.rollout.report import ControllerReport
from tests.snapshots import EXAMPLES, NOW, calm, canary, model, outage, snapshot, taken_back, version


def shown(told: Snapshot, width: int = 80) -> list[str]:
    return [drawn(line, width, color=False) for line in status_lines(told, width, zone=UTC)]


def said(told: Snapshot, width: int = 80) -> str:
    """All of it in one line, however it was wrapped."""
    return " ".join(" ".join(shown(told, width)).split())


def test_calm_is_said_in_few_lines() -> None:
    assert shown(calm()) == [
        "● fine                                       Holdfast 0.1.0, up 1d 00h, 04:53:20",
        "",
        "gateways    2 of 2 take requests (8101, 8102), table 7",
        "controller  writing; event 128 in /var/lib/holdfast/events.db",
        "changes     over HTTP, from this machine",
        "",
        "model                req/s      p50      p99   errors degraded     shed waiting",
        "digits                 150   3.1 ms  12.4 ms        -        -        -       -",
        "  ✓ v2 stable 100 % (2 replicas), v1 standby (2 replicas)",
        "orientation           12.5   3.1 ms  12.4 ms        -        -        -       -",
        "  ✓ v2 stable 100 % (2 replicas), v1 standby (2 replicas)",
        "",
        "latest",
        "  04:03:20  digits@v2 answers by default",
        "  03:55:00  a gateway came: port 8102",
    ]


def on(*ips: str) -> tuple[ReplicaView, ...]:
    return tuple(ReplicaView(id=f"r{number}", live=True, ip=ip) for number, ip in enumerate(ips))


def test_where_replicas_are_is_said_when_there_is_more_than_one_node() -> None:
    several = model(versions=(version("v2", replicas=on("10.0.0.2", "10.0.0.1", "10.0.0.2")),))
    single = model("digits-lite", versions=(version("v1", replicas=on("10.0.0.1")),))
    text = said(snapshot(models=(several, single)))
    assert "v2 stable 100 % (3 replicas: 10.0.0.1, 2 on 10.0.0.2)" in text
    assert "v1 stable 100 % (1 replica on 10.0.0.1)" in text
    assert "10.0.0.1" not in said(snapshot(models=(single,)))


def test_in_an_outage_the_reasons_come_first_and_then_where_each_is_seen() -> None:
    lines = shown(outage())
    assert lines[0].startswith("● bad ")
    assert lines[1] == "  ✗ orientation: no version is served (v2: model.onnx: wrong digest)"
    assert lines[2] == "  ✗ digits: 12 % of the requests get an error (mostly no_answer)"
    text = said(outage())
    for part in (
        "gateways 1 of 2 take requests (8101), table 7",
        "controller silent: no answer within 0.5 s; event 128",
        "digits 150 9.5 ms 250 ms 12 % 64 % 16 % 31",
        "✗ errors: 17.5/s no_answer, 0.5/s deadline_exceeded",
        "! degraded: 80/s circuit_open, 16/s model_failed",
        "✗ v2 stable 100 %: breaker open in 1 of 1 gateways for 8.0 s: 12 of 20 calls failed within 10 s",
        "10 s, tries again in 1.5 s",
        "! v2 stable 100 %: 2 of 2 replicas out: v2-k3s9x0 ejected (9 of 12 calls were bad), v2-p1f7m2 not connected",
        "! shadow digits-lite@v1 answers nothing",
        "✗ v2 unavailable: model.onnx: wrong digest",
        "04:53:12 digits@v2: breaker open at 8101",
    ):
        assert part in text


def test_what_docs_operations_shows_is_what_it_would_say() -> None:
    outage_of_a_version = outage()
    digits = outage_of_a_version.models[0]
    failing = msgspec.structs.replace(digits.versions[1], replicas=version("v2").replicas)
    told = snapshot(
        msgspec.structs.replace(digits, shadows=(), versions=(digits.versions[0], failing)),
        gateways=outage_of_a_version.gateways,
        events=(),
    )
    page = (Path(__file__).parents[4] / "docs/operations.md").read_text()
    assert page.split("```text\n")[1].split("```")[0].splitlines() == shown(told)


def test_a_canary_is_seen_with_its_evidence() -> None:
    text = said(canary())
    assert "v2 stable 95 % (2 replicas), v3 canary 5 % (2 replicas), v1 standby" in text
    assert "▶ digits-1 v1 → v3: Progressing, step 2/5, 5 %, evidence 2.01 of 150: pauses for 60s at 5 %" in text


def test_a_version_that_was_taken_back_is_told_once_with_its_reason() -> None:
    text = said(taken_back())
    assert "digits-1 v1 → v3: RolledBack" in text
    assert "v3 unavailable" not in text
    assert "was rolled back" not in text


def test_what_was_rolled_back_long_ago_is_still_told() -> None:
    told = msgspec.structs.replace(calm(), rolled_back={"digits@v7": "it was slow"})
    assert "digits@v7 was rolled back: it was slow" in said(told)


@pytest.mark.parametrize("width", [60, 80, 100])
@pytest.mark.parametrize("name", EXAMPLES)
def test_no_line_is_too_wide_and_only_rows_of_figures_may_be_cut(name: str, width: int) -> None:
    lines = shown(EXAMPLES[name](), width)
    assert max(map(len, lines)) <= width
    assert not any("…" in line for line in lines if width >= 80)


def test_names_and_reasons_cannot_steer_the_terminal() -> None:
    evil = "\x1b[2J\r\x07<script>"
    told = snapshot(
        model(
            evil,
            degraded_by_reason={evil: 1.0},
            versions=(
                version(evil, ready=False, reason=evil, role="unavailable"),
                version("v2", breaker=BreakerView(state="open", why=evil, gateways={evil: "open"})),
            ),
        ),
        verdict=Verdict("bad", (evil,)),
        controller=ControllerReport(evil, evil, log=evil),
        rolled_back={evil: evil},
        events=(LiveEvent(NOW, "version", evil, evil),),
    )
    text = "\n".join(shown(told))
    assert text.count("<script>") >= 8
    assert all(sign.isprintable() for sign in text if sign != "\n")


def test_who_may_change_things_is_said() -> None:
    for admin, words in (
        (Admin(open=True, token=True), "with the token"),
        (Admin(open=False, token=False), "switched off over HTTP"),
    ):
        assert words in said(snapshot(model(), admin=admin))


def test_gateways_that_differ_and_a_node_without_models_stand_out() -> None:
    told = calm()
    apart = msgspec.structs.replace(
        told, models=(), events=(), gateways=msgspec.structs.replace(told.gateways, generations=(7, 6))
    )
    text = said(apart)
    assert "tables 6, 7" in text
    assert text.endswith("no models are served")


def test_of_many_models_those_that_are_well_have_one_line() -> None:
    many = [model(f"m{number}") for number in range(MANY)]
    ill = model("ill", versions=(version("v9", ready=False, reason="it crashes"),))
    lines = shown(snapshot(*many, ill))
    assert sum(line.startswith("  ✓") for line in lines) == 0
    assert "  ✗ v9 stable 100 %: it crashes" in lines


def test_long_names_are_cut_so_that_figures_stay_in_their_columns() -> None:
    row = next(line for line in shown(snapshot(model("a-model-with-a-very-long-name"))) if line.startswith("a-model"))
    assert row.startswith("a-model-with-a-v…      150")
