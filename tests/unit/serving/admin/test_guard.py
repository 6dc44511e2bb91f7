"""Only who may change the system does, and whoever may not hears what is missing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from serving.admin.routes import BREAKERS, CLOSE, COMMANDS, FIXED, OF_REPOSITORY, OF_ROLLOUT, REPOSITORY, ROLLOUTS
from tests.fakes import FakeClock

if TYPE_CHECKING:
    from tests.unit.serving.ingress.conftest import Site

    MakeSite = Callable[..., Site]

TOKEN = b"a token of sixteen and more".replace(b" ", b"-")
BEARER = {"Authorization": f"Bearer {TOKEN.decode()}"}
BODY = b'{"who": "anna", "file": "x"}'
COMMAND = b'{"who": "anna"}'

CHANGES = [
    (method, path, COMMAND if path.rpartition("/")[2] in (*COMMANDS, "close") else BODY)
    for path, target in [
        *FIXED.items(),
        *((f"{ROLLOUTS}m/{name}", target) for name, target in OF_ROLLOUT.items() if name),
        *((f"{REPOSITORY}m/{name}", target) for name, target in OF_REPOSITORY.items()),
        (f"{BREAKERS}m/v1/close", CLOSE),
    ]
    for method in target.allow
    if method not in ("GET", "HEAD")
]
"""Everything there is that isn't only asked."""


def test_there_are_changes_to_guard() -> None:
    assert len(CHANGES) == 12


class TestToken:
    @pytest.mark.parametrize(("method", "path", "body"), CHANGES)
    async def test_every_change_needs_it(
        self, clock: FakeClock, site: MakeSite, method: str, path: str, body: bytes
    ) -> None:
        here = site(token=TOKEN, faults=True)
        for headers in ({}, {"Authorization": "Bearer not-this-one-but-as-long"}):
            response = await here.ask(method, path, body, headers)
            assert (response.status, response.headers["www-authenticate"]) == (401, "Bearer")
        assert (here.control.commands, here.refused) == ([], ["missing", "wrong"])
        response = await here.ask(method, path, body, BEARER)
        assert response.status not in (401, 403)
        assert here.refused == ["missing", "wrong"]

    @pytest.mark.parametrize("path", ["/v2/holdfast/rollouts", f"{ROLLOUTS}m", f"{ROLLOUTS}m/history"])
    async def test_to_look_at_rollouts_needs_none(self, clock: FakeClock, site: MakeSite, path: str) -> None:
        for here in (site(token=TOKEN), site(host="0.0.0.0")):
            assert (await here.ask("GET", path, b"", {"Origin": "https://elsewhere.example"})).status == 200
            assert here.refused == []

    async def test_inferences_and_the_index_need_none(self, clock: FakeClock, site: MakeSite) -> None:
        here = site(token=TOKEN)
        assert (await here.ask("POST", "/v2/repository/index")).status == 200
        assert (await here.ask("POST", "/v2/models/x/infer")).status == 503  # no table has come yet

    @pytest.mark.parametrize(
        ("authorization", "reason"),
        [
            ("", "missing"),
            ("Basic YW5uYTp4", "missing"),
            (TOKEN.decode(), "missing"),
            ("Bearer", "wrong"),
            (f"Bearer {TOKEN.decode()[:-1]}", "wrong"),
            (f"Bearer {TOKEN.decode()}x", "wrong"),
            (f"Bearer {TOKEN.decode().upper()}", "wrong"),
            (f"Bearer {TOKEN.decode()}, Bearer {TOKEN.decode()}", "wrong"),
            ("Bearer \u00fc\u00fc\u00fc\u00fc", "wrong"),
        ],
    )
    async def test_nothing_but_the_token_passes_and_no_answer_shows_it(
        self, clock: FakeClock, site: MakeSite, authorization: str, reason: str
    ) -> None:
        here = site(token=TOKEN)
        response = await here.ask("POST", f"{ROLLOUTS}m/pause", COMMAND, {"Authorization": authorization})
        assert (response.status, here.refused) == (401, [reason])
        assert TOKEN not in response.body

    @pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
    async def test_the_scheme_is_a_word_in_any_case(self, clock: FakeClock, site: MakeSite, scheme: str) -> None:
        headers = {"Authorization": f"{scheme}  {TOKEN.decode()} "}
        assert (await site(token=TOKEN).ask("POST", f"{ROLLOUTS}m/pause", COMMAND, headers)).status == 200

    async def test_who_may_not_is_told_so_before_the_body_is_read(self, clock: FakeClock, site: MakeSite) -> None:
        headers = {"Content-Encoding": "gzip"}
        response = await site(token=TOKEN).ask("POST", f"{ROLLOUTS}m/pause", b"not gzip", headers)
        assert response.status == 401

    async def test_a_new_token_counts_and_the_old_one_no_more(self, clock: FakeClock, site: MakeSite) -> None:
        here = site(token=TOKEN)
        here.token = TOKEN[::-1]
        assert (await here.ask("POST", f"{ROLLOUTS}m/pause", COMMAND, BEARER)).status == 401
        headers = {"Authorization": f"Bearer {TOKEN[::-1].decode()}"}
        assert (await here.ask("POST", f"{ROLLOUTS}m/pause", COMMAND, headers)).status == 200

    @pytest.mark.parametrize("given", [TOKEN.decode(), "x", ""])
    async def test_without_a_usable_file_nobody_passes(self, clock: FakeClock, site: MakeSite, given: str) -> None:
        here = site(token=TOKEN)
        here.token = b""
        headers = {"Authorization": f"Bearer {given}"}
        response = await here.ask("POST", f"{ROLLOUTS}m/pause", COMMAND, headers)
        assert (response.status, here.refused, here.control.commands) == (401, ["unusable"], [])
        assert "admin_token_file" in response.json["error"]


class TestAddress:
    @pytest.mark.parametrize(("method", "path", "body"), [each for each in CHANGES if "faults" not in each[1]])
    async def test_where_others_can_reach_it_nothing_is_changed_without_a_token(
        self, clock: FakeClock, site: MakeSite, method: str, path: str, body: bytes
    ) -> None:
        here = site(host="0.0.0.0")
        response = await here.ask(method, path, body)
        assert (response.status, here.control.commands) == (404, [])
        assert "setting `admin_token_file`" in response.json["error"]
        assert (await site(host="0.0.0.0", token=TOKEN).ask(method, path, body, BEARER)).status < 300

    async def test_what_is_switched_off_stays_so_with_a_token(self, clock: FakeClock, site: MakeSite) -> None:
        response = await site(admin=False, token=TOKEN).ask("POST", f"{ROLLOUTS}m/pause", COMMAND, BEARER)
        assert (response.status, "setting `admin`" in response.json["error"]) == (404, True)

    async def test_faults_have_a_setting_of_their_own(self, clock: FakeClock, site: MakeSite) -> None:
        assert (await site(admin=False, faults=True).ask("DELETE", "/v2/holdfast/faults")).status == 200


class TestOrigin:
    async def ask(self, here: Site, **headers: str) -> int:
        response = await here.ask("POST", f"{ROLLOUTS}m/pause", COMMAND, headers)
        if response.status == 403:
            assert response.json["error"].startswith("header ")
        return response.status

    @pytest.mark.parametrize(
        "origin",
        [
            "https://elsewhere.example",
            "null",
            "",
            "http://127.0.0.1:8001",
            "http://127.0.0.1",
            "http://127.0.0.1:8000.elsewhere.example",
            "127.0.0.1:8000",
            "http://x@127.0.0.1:8000",
        ],
    )
    async def test_a_page_of_somewhere_else_changes_nothing(
        self, clock: FakeClock, site: MakeSite, origin: str
    ) -> None:
        for here, headers in ((site(), {}), (site(token=TOKEN), BEARER)):
            assert await self.ask(here, Host="127.0.0.1:8000", Origin=origin, **headers) == 403
            assert (here.refused, here.control.commands) == (["origin"], [])

    @pytest.mark.parametrize("host", ["127.0.0.1:8000", "LocalHost:8000", "[::1]:8000", "[::1]", "localhost"])
    async def test_our_own_pages_do(self, clock: FakeClock, site: MakeSite, host: str) -> None:
        assert await self.ask(site(), Host=host, Origin=f"http://{host}".lower()) == 200

    async def test_a_name_of_somebody_else_that_leads_here_is_not_ours_without_a_token(
        self, clock: FakeClock, site: MakeSite
    ) -> None:
        """What a page of elsewhere does whose name is suddenly said to be at 127.0.0.1."""
        headers = {"Host": "elsewhere.example:8000", "Origin": "http://elsewhere.example:8000"}
        assert await self.ask(site(), **headers) == 403
        assert await self.ask(site(token=TOKEN), **headers) == 401
        assert await self.ask(site(token=TOKEN), **headers, **BEARER) == 200

    async def test_a_request_with_an_origin_needs_a_host(self, clock: FakeClock, site: MakeSite) -> None:
        assert await self.ask(site(), Origin="http://") == 403
