"""What can be changed over HTTP, and what can be asked of it, as its callers know it."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from serving.admin.bodies import FILE_MAX_CHARACTERS, SEQ_MAX, StartRollout
from serving.admin.breakers import Closed, closed
from serving.admin.routes import COMMANDS, find_target
from serving.errors import BreakerNotOpen, InvalidRequest, ModelNotFound, ReplicaUnavailable, RequestError
from serving.ingress.bodies import read_body
from serving.rollout.file import MAX_CHARACTERS
from tests.fakes import FakeClock

if TYPE_CHECKING:
    from tests.unit.serving.ingress.conftest import Site

    MakeSite = Callable[..., Site]

ROLLOUTS = "/v2/holdfast/rollouts"


def body(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


async def test_load_and_unload_reach_the_control_plane(clock: FakeClock, site: MakeSite) -> None:
    here = site()
    wish = b'{"parameters": {"version": "v2"}}'
    for request, headers in [(wish, {}), (gzip.compress(wish), {"Content-Encoding": "gzip"})]:
        for command in ("load", "unload"):
            response = await here.ask("POST", f"/v2/repository/models/m/{command}", request, headers)
            assert (response.status, response.body) == (200, b"")
            assert here.control.commands.pop() == (command, "m", wish)


async def test_a_restart_of_the_gateways_is_begun_and_can_be_followed(clock: FakeClock, site: MakeSite) -> None:
    here = site()
    response = await here.ask("POST", "/v2/holdfast/gateways/restart")
    assert (response.status, response.json) == (202, {"state": "running"})
    assert here.control.commands.pop() == ("restart", "", b"")
    assert (await here.ask("GET", "/v2/holdfast/gateways")).json == {"accepting": ["g1"]}


async def test_a_load_that_fails_says_why(clock: FakeClock, site: MakeSite) -> None:
    here = site()
    response = await here.ask("POST", "/v2/repository/models/bad/load")
    assert response.status == 409
    assert response.json["error"] == "bad@v1 can't be loaded: it gave 7 where its golden example says 8"
    assert (await here.ask("POST", "/v2/repository/models/unknown/unload")).status == 404


class TestBreakers:
    PATH = "/v2/holdfast/breakers/m/v1/close"

    @pytest.mark.parametrize("said", [b"", body(), body(who="anna", why="the disk is back")])
    async def test_one_is_closed_in_all_gateways(self, clock: FakeClock, site: MakeSite, said: bytes) -> None:
        here = site()
        response = await here.ask("POST", self.PATH, said)
        assert (response.status, response.json) == (200, {"gateways": 2, "answered": 2, "closed": 1})
        command, name, handed_on = here.control.commands.pop()
        assert (command, name) == ("close_breaker", "m@v1")
        assert json.loads(handed_on) == {"who": "", "why": ""} | json.loads(said or b"{}")

    async def test_one_that_is_closed_stays_so_and_is_told(self, clock: FakeClock, site: MakeSite) -> None:
        response = await site().ask("POST", "/v2/holdfast/breakers/bad/v1/close")
        assert (response.status, response.json["error"]) == (409, "the breaker of bad@v1 is closed in all gateways")

    async def test_a_wrong_body_is_refused_with_its_field(self, clock: FakeClock, site: MakeSite) -> None:
        response = await site().ask("POST", self.PATH, body(whom="anna"))
        assert (response.status, response.json["error"]) == (400, "the body: unknown field `whom`")

    @pytest.mark.parametrize(
        "rest", ["m/v1", "m/close", "m//close", "/v1/close", "m/v1/open", "m/v1/close/", f"{'m' * 129}/v1/close"]
    )
    def test_another_path_is_not_found(self, rest: str) -> None:
        assert find_target(f"/v2/holdfast/breakers/{rest}") is None

    @pytest.mark.parametrize(
        ("answers", "gateways", "told"),
        [
            ([True, False], 2, Closed(2, 2, 1)),
            ([True, None], 2, Closed(2, 2, 1)),
            ([True], 3, Closed(3, 1, 1)),
            ([True, True], 0, Closed(2, 2, 2)),
        ],
    )
    def test_what_gateways_say_is_added_up(self, answers: list[bool | None], gateways: int, told: Closed) -> None:
        assert closed("m@v1", answers, gateways=gateways) == told

    @pytest.mark.parametrize(
        ("answers", "error", "said"),
        [
            ([], ReplicaUnavailable, "no gateway answered, so no breaker is known to be closed; try again"),
            ([None, None], ModelNotFound, "no gateway serves m@v1"),
            ([False, None], BreakerNotOpen, "the breaker of m@v1 is closed already in all gateways"),
            (
                [False],
                BreakerNotOpen,
                "the breaker of m@v1 is closed already in 1 of 2 gateways, the rest was silent",
            ),
        ],
    )
    def test_what_nobody_closed_is_refused(
        self, answers: list[bool | None], error: type[RequestError], said: str
    ) -> None:
        with pytest.raises(error) as caught:
            closed("m@v1", answers, gateways=2)
        assert caught.value.message == said


class TestRollouts:
    async def test_they_are_told_all_together_or_one_by_one(self, clock: FakeClock, site: MakeSite) -> None:
        here = site()
        response = await here.ask("GET", ROLLOUTS)
        assert (response.status, response.json) == (200, {"rollouts": []})
        assert (await here.ask("GET", f"{ROLLOUTS}/m")).json == {"model": "m"}
        response = await here.ask("GET", f"{ROLLOUTS}/bad")
        assert (response.status, response.json["error"]) == (404, "'bad' never had a rollout")

    async def test_one_is_started_with_its_file_as_it_is(self, clock: FakeClock, site: MakeSite) -> None:
        here = site()
        text = "model: m\nversion: v2  # ü\n"
        for request, headers in [
            (body(file=text, who="anna"), {}),
            (gzip.compress(body(file=text, who="anna")), {"Content-Encoding": "gzip"}),
        ]:
            response = await here.ask("POST", ROLLOUTS, request, headers)
            assert (response.status, response.json) == (201, {"rollout": "m-1"})
            command, _, sent = here.control.commands.pop()
            assert (command, json.loads(sent)) == ("start", {"file": text, "who": "anna", "why": ""})

    @pytest.mark.parametrize("command", COMMANDS)
    async def test_every_command_reaches_the_control_plane(
        self, clock: FakeClock, site: MakeSite, command: str
    ) -> None:
        here = site()
        response = await here.ask("POST", f"{ROLLOUTS}/m/{command}", body(who="anna", why="Friday"))
        assert (response.status, response.json) == (200, {"rollout": "m-1"})
        told, model, sent = here.control.commands.pop()
        assert (told, model, json.loads(sent)) == (command, "m", {"who": "anna", "why": "Friday"})

    async def test_what_does_not_go_now_says_what_to_do(self, clock: FakeClock, site: MakeSite) -> None:
        response = await site().ask("POST", f"{ROLLOUTS}/bad/promote", body(who="anna"))
        assert (response.status, response.json["error"]) == (409, "'bad' is over; start another rollout")

    @pytest.mark.parametrize(
        ("query", "after", "limit"),
        [
            ("", 0, 200),
            ("?", 0, 200),
            ("?after=57", 57, 200),
            ("?limit=1000&after=0", 0, 1000),
            (f"?after={SEQ_MAX}&limit=1", SEQ_MAX, 1),
        ],
    )
    async def test_a_history_comes_in_pages(
        self, clock: FakeClock, site: MakeSite, query: str, after: int, limit: int
    ) -> None:
        here = site()
        response = await here.ask("GET", f"{ROLLOUTS}/m/history{query}")
        assert (response.status, response.json) == (200, {"events": [], "next": None})
        assert here.control.asked == [("m", after, limit)]

    @pytest.mark.parametrize(
        ("query", "said"),
        [
            ("?after=-1", "query: after: '-1' isn't a whole number from 0 to 9223372036854775807"),
            (f"?after={SEQ_MAX + 1}", "query: after: '9223372036854775808' isn't"),
            ("?after=1.5", "query: after: '1.5' isn't"),
            ("?after=%D9%A1", "query: after: "),
            ("?limit=0", "query: limit: '0' isn't a whole number from 1 to 1000"),
            ("?limit=1001", "query: limit: '1001' isn't"),
            ("?limit=", "query: limit: '' isn't"),
            (f"?limit={'1' * 200}", f"query: limit: '{'1' * 32}' isn't"),
            ("?limit=1&limit=2", "query: limit stands there twice"),
            ("?since=5", "query: there is no parameter 'since', only after and limit"),
            ("?" + "a" * 257, "query: it has more than 256 bytes"),
        ],
    )
    async def test_a_wrong_query_is_named(self, clock: FakeClock, site: MakeSite, query: str, said: str) -> None:
        here = site()
        response = await here.ask("GET", f"{ROLLOUTS}/m/history{query}")
        assert (response.status, response.json["error"][: len(said)]) == (400, said)
        assert here.control.asked == []

    @pytest.mark.parametrize(
        ("path", "request_body", "said"),
        [
            ("", b"", "the body: "),
            ("", b"[]", "the body: Expected `object`, got `array`"),
            ("", body(who="anna"), "the body: Object missing required field `file`"),
            ("", body(file="x"), "the body: Object missing required field `who`"),
            ("", body(file="x", who="anna", when="now"), "the body: unknown field `when`"),
            ("", body(file="", who="anna"), "file: Expected `str` of length >= 1"),
            ("", body(file={"model": "m"}, who="anna"), "file: Expected `str`, got `object`"),
            ("/m/pause", b"", "the body: "),
            ("/m/pause", b"\xff", "the body: "),
            ("/m/pause", b'{"who": ' + b"[" * 3000, "who: Expected `str`, got `array`"),
            ("/m/pause", body(why="Friday"), "the body: Object missing required field `who`"),
            ("/m/pause", body(who=""), "who: Expected `str` of length >= 1"),
            ("/m/pause", body(who="a" * 129), "who: Expected `str` of length <= 128"),
            ("/m/pause", body(who="anna", why="a" * 1001), "why: Expected `str` of length <= 1000"),
            ("/m/pause", body(who="anna", why=None), "why: Expected `str`, got `null`"),
            ("/m/pause", body(who="anna", file="x"), "the body: unknown field `file`"),
        ],
    )
    async def test_a_wrong_body_is_refused_with_its_field(
        self, clock: FakeClock, site: MakeSite, path: str, request_body: bytes, said: str
    ) -> None:
        here = site()
        response = await here.ask("POST", f"{ROLLOUTS}{path}", request_body)
        assert (response.status, response.json["error"][: len(said)]) == (400, said)
        assert here.control.commands == []

    def test_a_file_that_is_far_too_long_is_not_handed_on(self) -> None:
        with pytest.raises(InvalidRequest, match="file: Expected `str` of length <= 65536"):
            read_body(body(file="x" * (FILE_MAX_CHARACTERS + 1), who="anna"), StartRollout)
        assert FILE_MAX_CHARACTERS > MAX_CHARACTERS, "the file's own error, which has lines and keys, comes first"

    @pytest.mark.parametrize(
        ("method", "path", "allow"),
        [
            ("PUT", ROLLOUTS, "GET, HEAD, POST"),
            ("POST", f"{ROLLOUTS}/m", "GET, HEAD"),
            ("GET", f"{ROLLOUTS}/m/pause", "POST"),
            ("DELETE", f"{ROLLOUTS}/m/history", "GET, HEAD"),
            ("GET", "/v2/repository/models/m/load", "POST"),
        ],
    )
    async def test_another_method_hears_which_are_allowed(
        self, clock: FakeClock, site: MakeSite, method: str, path: str, allow: str
    ) -> None:
        response = await site().ask(method, path)
        assert (response.status, response.headers["allow"]) == (405, allow)

    @pytest.mark.parametrize(
        "path",
        [
            f"{ROLLOUTS}/",
            f"{ROLLOUTS}//pause",
            f"{ROLLOUTS}/m/",
            f"{ROLLOUTS}/m/fly",
            f"{ROLLOUTS}/m/pause/",
            f"{ROLLOUTS}/m/pause/now",
            f"{ROLLOUTS}/{'m' * 129}",
            "/v2/holdfast/rollout",
            "/v2/repository/models/m/load/",
        ],
    )
    async def test_another_path_is_not_found(self, clock: FakeClock, site: MakeSite, path: str) -> None:
        assert find_target(path) is None
        response = await site().ask("GET", path)
        assert (response.status, response.json["error"][:14]) == (404, "no such path: ")
