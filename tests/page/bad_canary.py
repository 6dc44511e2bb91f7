"""A rollout that goes bad is watched on the page of a running system, and so is its rollback. Run by ``make page``."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser import Tab
from tests.integration.system import BLANK, HOST, System, Traffic, eventually

ROLLOUT = """\
model: digits
version: v2
from: v1
steps: [{setWeight: 25}, {pause: {duration: 300s}}, {setWeight: 100}]
analysis: {minAttempts: 10, alpha: 0.01}
"""
TOKEN = "seven-of-nine-tertiary-adjunct"
BEARER = {"authorization": f"Bearer {TOKEN}"}
SOON_S = 60.0


@pytest.fixture(scope="module")
def system(zoo_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Two gateways that serve digits@v1, and want a token for changes."""
    folder = tmp_path_factory.mktemp("system")
    shutil.copytree(zoo_store, folder / "models")
    token = folder / "token"
    token.write_text(f"{TOKEN}\n")
    token.chmod(0o600)
    system = System(folder / "models", models=[{"name": "digits", "versions": ["v1"], "breaker": {"open_s": 300.0}}])
    system.args.update(faults=True, admin_token_file=str(token))
    try:
        system.start()
        system.wait_until_ready()
        yield system
        assert system.stop() == 0
        assert system.traces() == []
    except AssertionError as error:
        raise AssertionError(f"{error}\n{system.story()}") from None
    finally:
        system.remove()


def command(system: System, path: str, body: object) -> None:
    answer = system.ask("POST", path, body, BEARER)
    assert answer.status in (200, 201), answer.body


def start(system: System) -> None:
    command(system, "/v2/holdfast/rollouts", {"file": ROLLOUT, "who": "anna", "why": "more accurate"})


def open_page(tab: Tab, system: System, path: str = "/admin") -> None:
    tab.open(f"http://{HOST}:{system.port}{path}")
    tab.until_says("2 of 2 accept requests", "#verdict", within_s=SOON_S)


def test_a_bad_canary_is_watched_and_taken_back_before_our_eyes(tab: Tab, system: System) -> None:
    with Traffic(system, "digits") as traffic:
        open_page(tab, system)
        tab.until_says("All is fine", "h1")
        start(system)
        tab.until_says("in progress", ".journey", within_s=SOON_S)
        tab.until_says("25 %", ".split", within_s=SOON_S)
        fault = {"model": "digits", "version": "v2", "fault": {"fail_rate": 0.66, "seed": 1}}
        command(system, "/v2/holdfast/faults", fault)
        tab.until_says("rolled back", ".journey", within_s=SOON_S)
        tab.until_says("against it, 150 is enough", ".journey .reason")
        tab.until_says("until no gateway had v2", ".journey .took")
        tab.until("document.querySelectorAll('.journey button').length === 0")
        tab.until_says("v2 isn't served: rolled back", ".absent", within_s=SOON_S)
        tab.until_says("RolledBack", ".events")
        tab.until("document.querySelector('#m0-weight path') !== null")
        assert traffic.failures() == []


def test_a_person_takes_a_canary_back_from_the_page_with_the_token(tab: Tab, system: System) -> None:
    with Traffic(system, "digits"):
        open_page(tab, system, "/admin/models/digits")
        eventually(lambda: started(system), "the last rollout is settled", within_s=SOON_S)
        tab.until_says("in progress", ".journey", within_s=SOON_S)
        tab.click(".journey button", "Abort")
        for text in ("anna", "seen enough", "wrong"):
            tab.write(text)
            tab.press("Tab")
        tab.click("#ask-yes")
        tab.until_says("header Authorization: this isn't the token", "#ask-error")
        tab.problems.clear()  # the console notes the 401
        tab.until("document.activeElement.id === 'ask-token'")
        tab.get("document.activeElement.select()")
        tab.write(TOKEN)
        tab.press("Enter")
        tab.until("!document.getElementById('ask').open")
        tab.until_says("aborted", ".journey", within_s=SOON_S)
    report = system.ask("GET", "/v2/holdfast/rollouts/digits").json()
    assert report["phase"] == "Aborted"


def test_a_person_closes_a_breaker_once_its_cause_is_gone(tab: Tab, system: System) -> None:
    open_page(tab, system, "/admin/models/digits")
    tab.get("sessionStorage.clear()")  # who did something here before, and with which token
    fault = {"model": "digits", "version": "v1", "fault": {"fail_rate": 1.0}}
    with Traffic(system, "digits"):
        command(system, "/v2/holdfast/faults", fault)
        tab.until_says("breaker open", "#verdict", within_s=SOON_S)
        assert system.ask("DELETE", "/v2/holdfast/faults", None, BEARER).status == 200
        tab.click(".versions button", "Close breaker")
        for text in ("anna", "the fault is gone"):
            tab.write(text)
            tab.press("Tab")
        tab.write(TOKEN)
        tab.press("Enter")
        tab.until("!document.getElementById('ask').open")
        tab.until_says("All is fine", "h1", within_s=SOON_S)
    assert system.infer("digits", BLANK).status == 200


def started(system: System) -> bool:
    body = {"file": ROLLOUT, "who": "anna"}
    return system.ask("POST", "/v2/holdfast/rollouts", body, BEARER).status == 201


def test_the_page_is_kept_by_browsers_and_guarded_on_the_way_through_haproxy(system: System) -> None:
    first = system.ask("GET", "/admin", headers={"accept-encoding": "gzip"})
    assert first.status == 200
    assert b"<!doctype html>" in first.plain()
    assert "frame-ancestors 'none'" in first.headers["content-security-policy"]
    again = system.ask("GET", "/admin", headers={"accept-encoding": "gzip", "if-none-match": first.headers["etag"]})
    assert (again.status, again.body) == (304, b"")
    assert system.ask("HEAD", "/admin").body == b""
    assert system.ask("POST", "/admin").status == 405
