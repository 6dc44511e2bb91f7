"""The live page in a real Chromium, with examples behind it: what people see, hear and do. Run by ``make page``.

Not here: a running system behind it (``bad_canary.py``), what needs no browser (``tests/unit/serving/admin/page``).
"""

from __future__ import annotations

import msgspec
import pytest

from serving.live.snapshot import Snapshot
from tests.browser import Tab
from tests.page_server import HOSTILE, SCENES, Command, PageServer, with_token
from tests.snapshots import calm, canary, outage, taken_back

WIDTHS = (360, 768, 1280, 2200)
REFUSED = "Failed to load resource: the server responded with a status of "


def see(tab: Tab, page: PageServer, scene: str, path: str = "/admin") -> None:
    page.scene = SCENES[scene]
    tab.open(page.url + path)
    tab.until("document.querySelector('#verdict h1') !== null")


def forgive(tab: Tab, status: int) -> None:
    """Chromium notes every refusal in its console; this one was meant."""
    tab.problems[:] = [problem for problem in tab.problems if not problem.startswith(f"{REFUSED}{status}")]


def focused(tab: Tab) -> str:
    return str(
        tab.get("document.activeElement.innerText || document.activeElement.id || document.activeElement.tagName")
    )


@pytest.mark.parametrize(
    ("scene", "verdict", "words"),
    [
        ("calm", "All is fine", ["digits", "orientation", "150", "3.1 ms", "Nobody waits in the queue."]),
        ("canary", "All is fine", ["v3", "wait 60s", "2.01, 150 is enough", "40 s more of the pause", "98 % of 60"]),
        ("taken_back", "All is fine", ["rolled back", "10⁷, 150 is enough", "0.4 s from the evidence"]),
        (
            "outage",
            "Bad",
            ["silent", "1 of 2 accept requests", "open for 8 s", "12 of 20 calls failed within 10 s", "circuit open",
             "53 %", "0 of 2 well", "31 wait in the queue", "answered 812", "model.onnx: wrong digest"],
        ),
        ("incidents", "Bad", ["212 kept", "model_failed (answered by digits@v1)"]),
        ("empty", "All is fine", ["No model is served."]),
    ],
)  # fmt: skip
def test_it_says_how_things_stand(tab: Tab, page: PageServer, scene: str, verdict: str, words: list[str]) -> None:
    see(tab, page, scene)
    assert tab.text("h1") == verdict
    for word in words:
        tab.until_says(word)


def test_it_lives(tab: Tab, page: PageServer) -> None:
    see(tab, page, "calm")
    page.scene = outage
    tab.until_says("Bad", "h1")
    tab.until("document.title.startsWith('✖ bad')")
    page.scene = calm
    tab.until_says("All is fine", "h1")
    assert tab.get("document.title") == "✓ fine · Holdfast"


def test_it_says_loudly_that_nothing_new_comes_and_goes_on_when_it_does(tab: Tab, page: PageServer) -> None:
    see(tab, page, "calm")
    page.silent = True
    tab.until_says("No news for", "#stale")
    assert tab.get("document.title").startswith("? no news")
    assert "No news from the system" in tab.get("document.getElementById('told').textContent")
    page.silent = False
    tab.until("document.getElementById('stale').hidden")
    tab.until_says("live", "#live")


def test_it_asks_instead_if_it_may_not_listen_and_listens_once_it_may(tab: Tab, page: PageServer) -> None:
    page.refused = True
    see(tab, page, "canary")
    page.scene = taken_back
    tab.until_says("rolled back")
    page.refused = False
    tab.until("document.getElementById('stale').hidden")
    forgive(tab, 429)


def test_plots_show_the_last_five_minutes_and_go_on(tab: Tab, page: PageServer) -> None:
    see(tab, page, "outage")
    drawn = "document.querySelector('#m0-throughput path.ok').getAttribute('d')"
    before = tab.until(drawn)
    assert before.count("L") > 250
    tab.until(f"{drawn} !== {before!r}")
    parts = tab.get("[...document.querySelectorAll('#m0-throughput path')].map((one) => one.classList[1])")
    assert parts == ["ok", "degraded", "shed", "errors"]
    said = tab.get("document.querySelector('#m0-throughput svg').getAttribute('aria-label')")
    assert "errors " in said
    assert "from 0 to 2" in said
    width = tab.get("document.querySelector('#m0-throughput').clientWidth")
    assert tab.get("document.querySelector('#m0-throughput svg').clientWidth") == width


def test_the_arrow_keys_read_single_seconds_off_all_plots(tab: Tab, page: PageServer) -> None:
    see(tab, page, "outage")
    tab.get("document.querySelector('#m0-throughput svg').focus()")
    tab.press("ArrowLeft")
    tab.until_says("at ", "#m0 .unit")
    assert tab.get("document.querySelectorAll('#m0 line.cursor').length") == 2
    tab.press("Escape")
    tab.until("document.querySelectorAll('line.cursor').length === 0")


def test_markup_in_names_and_texts_is_only_text(tab: Tab, page: PageServer) -> None:
    see(tab, page, "hostile")
    tab.until_says("<script>")
    assert tab.get("document.querySelectorAll('img').length") == 1  # ours
    assert tab.get("document.querySelectorAll('script').length") == 1
    tab.click("#m0 h2 a")
    tab.until("location.pathname.startsWith('/admin/models/')")
    tab.until_says("All models")
    tab.open(tab.get("location.href"))  # the name comes from the address now
    tab.until_says("digits<script>", "h2")
    tab.click(".journey button", "Roll back")
    tab.until_says("<script>", "#ask-what")
    page.answer = lambda _command: (409, {"error": f"no {HOSTILE}"})
    tab.write("anna")
    tab.press("Enter")
    tab.until_says("no <script>", "#ask-error")
    assert "owned" not in tab.get("document.title").replace(HOSTILE, "")
    assert tab.get("document.querySelectorAll('img').length") == 1
    assert page.commands[-1].path.startswith("/v2/holdfast/rollouts/digits%3Cscript%3E")
    forgive(tab, 409)


def test_even_our_own_script_couldnt_make_markup_of_a_string(tab: Tab, page: PageServer) -> None:
    see(tab, page, "calm")
    refused = "(() => { try { document.body.innerHTML = '<p>'; return false; } catch { return true; } })()"
    assert tab.get(refused)
    assert tab.problems
    tab.problems.clear()


def test_a_command_says_what_it_does_asks_who_and_why_and_is_sent(tab: Tab, page: PageServer) -> None:
    see(tab, page, "canary")
    tab.click(".journey button", "Pause")
    tab.until_says("v3 keeps its 5 % of the requests until somebody resumes", "#ask")
    tab.press("Enter")  # nobody said who: nothing is sent
    assert page.commands == []
    tab.write("anna")
    tab.press("Tab")
    tab.write("looks odd")
    tab.click("#ask-yes")
    tab.until("!document.getElementById('ask').open")
    tab.until_says("written to the event log", "#said")
    body = {"who": "anna", "why": "looks odd"}
    assert page.commands == [Command("/v2/holdfast/rollouts/digits/pause", None, body)]


@pytest.mark.parametrize(
    ("button", "command"), [("Promote", "promote"), ("Abort", "abort"), ("Roll back", "rollback"), ("Pause", "pause")]
)
def test_each_button_sends_its_command_and_no_other(tab: Tab, page: PageServer, button: str, command: str) -> None:
    see(tab, page, "canary")
    tab.click(".journey button", button)
    tab.write("anna")
    tab.press("Enter")
    tab.until("!document.getElementById('ask').open")
    assert [sent.path for sent in page.commands] == [f"/v2/holdfast/rollouts/digits/{command}"]


def test_only_what_would_be_taken_is_offered(tab: Tab, page: PageServer) -> None:
    see(tab, page, "canary")
    offered = "[...document.querySelectorAll('.journey button')].map((one) => one.firstChild.nextSibling.data)"
    assert tab.get(offered) == ["Pause", "Promote", "Abort", "Roll back"]
    page.scene = taken_back
    tab.until(f"{offered}.length === 0")


def test_a_dialog_notices_that_things_have_changed_meanwhile(tab: Tab, page: PageServer) -> None:
    see(tab, page, "canary")
    tab.click(".journey button", "Promote")
    tab.write("anna")
    page.scene = taken_back
    tab.until_says("things have changed meanwhile", "#ask-note")
    assert tab.get("document.getElementById('ask-yes').disabled")


def test_a_breaker_is_closed(tab: Tab, page: PageServer) -> None:
    see(tab, page, "outage")
    tab.click(".version-card button", "Close breaker")
    tab.until_says("If it still fails, the breaker opens again", "#ask")
    tab.write("anna")
    tab.press("Enter")
    tab.until_says("The breaker of digits@v2 is closed.", "#said")
    assert [command.path for command in page.commands] == ["/v2/holdfast/breakers/digits/v2/close"]


def test_the_token_is_asked_once_kept_by_the_tab_only_and_asked_again_when_refused(tab: Tab, page: PageServer) -> None:
    page.answer = lambda command: (
        (200, {}) if command.token == "Bearer right" else (401, {"error": "header Authorization: this isn't the token"})
    )
    see(tab, page, "token")
    tab.click(".journey button", "Pause")
    for text in ("anna", "odd", "wrong"):
        tab.write(text)
        tab.press("Tab")
    tab.click("#ask-yes")
    tab.until_says("header Authorization: this isn't the token", "#ask-error")
    tab.until("document.activeElement.id === 'ask-token'")
    tab.get("document.activeElement.select()")
    tab.write("right")
    tab.press("Enter")
    tab.until("!document.getElementById('ask').open")
    tab.open(f"{page.url}/admin")
    tab.click(".journey button", "Abort")
    assert tab.get("document.getElementById('ask-token-row').hidden")
    tab.press("Enter")  # in "why", a line; the name is known
    tab.click("#ask-yes")
    tab.until("!document.getElementById('ask').open")
    assert [command.token for command in page.commands] == ["Bearer wrong", "Bearer right", "Bearer right"]
    assert tab.get("[localStorage.length, document.cookie]") == [0, ""]
    tab.click("#forget")
    tab.click(".journey button", "Abort")
    assert not tab.get("document.getElementById('ask-token-row').hidden")
    forgive(tab, 401)


def test_where_nobody_may_change_anything_nothing_is_offered(tab: Tab, page: PageServer) -> None:
    def closed() -> Snapshot:
        scene = with_token(canary)()
        return msgspec.structs.replace(scene, admin=msgspec.structs.replace(scene.admin, open=False))

    page.scene = closed
    tab.open(f"{page.url}/admin")
    tab.until_says("not over HTTP")
    assert tab.get("document.querySelectorAll('.journey button').length") == 0


def test_a_model_has_a_page_and_one_that_is_gone_says_so(tab: Tab, page: PageServer) -> None:
    see(tab, page, "calm")
    tab.click("h2 a", "orientation")
    tab.until("location.pathname === '/admin/models/orientation'")
    assert tab.get("document.querySelectorAll('article').length") == 1
    assert focused(tab).startswith("All models")  # main, which begins with the way back
    page.scene = SCENES["empty"]
    tab.until_says("No model “orientation”")
    tab.until_says("It is gone, or it never was")
    page.scene = calm
    tab.until("document.querySelectorAll('article').length === 1")
    tab.get("history.back()")
    tab.until("document.querySelectorAll('article').length === 2")


def test_among_many_models_only_those_that_need_an_eye_are_unfolded(tab: Tab, page: PageServer) -> None:
    see(tab, page, "many")
    opened = "[...document.querySelectorAll('.fold')].filter((one) => one.ariaExpanded === 'true').length"
    assert tab.get(opened) == 1
    tab.click(".fold", "More")
    tab.until(f"{opened} === 2")


def test_it_is_done_by_keyboard_alone(tab: Tab, page: PageServer) -> None:
    see(tab, page, "canary")
    tab.press("Tab")
    assert focused(tab) == "To the models"
    tab.press("Enter")
    tab.until("document.activeElement.id === 'main'")
    for _ in range(40):
        tab.press("Tab")
        if focused(tab).startswith("Roll back"):
            break
    ring = "getComputedStyle(document.activeElement)"
    assert tab.get(f"[{ring}.outlineStyle, parseFloat({ring}.outlineWidth) >= 2]") == ["solid", True]
    before = tab.text("#live")
    tab.until(f"document.querySelector('#live').innerText !== {before!r}")
    assert focused(tab).startswith("Roll back")  # drawn anew, and still there
    tab.press("Enter")
    tab.until("document.activeElement.id === 'ask-who'")
    for _ in range(8):
        tab.press("Tab")
        assert tab.get("document.activeElement === document.body || document.activeElement.closest('#ask') !== null")
    tab.press("Escape")
    tab.until("!document.getElementById('ask').open")
    assert focused(tab).startswith("Roll back")
    assert page.commands == []


def test_a_screen_reader_is_told_everything(tab: Tab, page: PageServer) -> None:
    see(tab, page, "outage")
    tab.until_says("digits")
    heard = tab.heard()
    roles = [role for role, _ in heard]
    assert {"banner", "main", "complementary", "contentinfo"} <= set(roles)
    headings = [name for role, name in heard if role == "heading"]
    assert headings[0] == "Bad"
    assert "digits (not well)" in headings
    assert [name for role, name in heard if role in ("button", "link", "image") and not name] == []
    assert ("button", "Close breaker of digits@v2") in heard
    images = [name for role, name in heard if role == "image"]
    assert any(name.startswith("Throughput, requests/s: ok ") for name in images)
    assert ("meter", "degraded: circuit open") in heard
    assert tab.get("document.getElementById('told').textContent").startswith("Bad: orientation: no version is served")


def test_other_figures_are_no_news_to_those_who_hear_the_page(tab: Tab, page: PageServer) -> None:
    see(tab, page, "outage")
    tab.until("document.getElementById('told').textContent !== ''")
    tab.get(
        "window.told = 0; new MutationObserver(() => { window.told += 1; })"
        ".observe(document.getElementById('told'), {childList: true, characterData: true, subtree: true})"
    )
    before = tab.text("#live")
    tab.until(f"document.querySelector('#live').innerText !== {before!r}")
    assert tab.get("window.told") == 0
    page.scene = calm
    tab.until("document.getElementById('told').textContent === 'All is fine.'")


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scene", ["canary", "outage", "hostile"])
def test_it_fits_every_screen(tab: Tab, page: PageServer, scene: str, width: int) -> None:
    tab.look(width=width)
    see(tab, page, scene)
    tab.until_says("digits")
    assert tab.get("document.documentElement.scrollWidth") <= width
    outside = (
        "[...document.querySelectorAll('main *, aside *, #verdict *')].filter((one) => one.checkVisibility()"
        " && !one.closest('.counts, .spoken, .split, svg') && one.getBoundingClientRect().right > innerWidth + 1)"
        ".map((one) => one.outerHTML.slice(0, 200))"
    )
    assert tab.get(outside) == []


def test_it_is_dark_where_people_like_it_dark_and_still_where_they_like_it_still(tab: Tab, page: PageServer) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    moves = "getComputedStyle(document.querySelector('.bar i')).transitionDuration"
    see(tab, page, "canary")
    assert (tab.get(ground), tab.get(moves)) == ("rgb(243, 245, 244)", "0s")
    tab.look(dark=True, still=False)
    assert (tab.get(ground), tab.get(moves)) == ("rgb(13, 19, 18)", "0.4s")


def test_every_drawing_is_there(tab: Tab, page: PageServer) -> None:
    for scene in SCENES:
        see(tab, page, scene)
        missing = (
            "[...document.querySelectorAll('use')].filter((one) => !document.querySelector(one.getAttribute('href')))"
        )
        assert tab.get(f"{missing}.length") == 0
