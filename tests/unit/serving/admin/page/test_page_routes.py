"""The live page is given to whoever asks, strictly guarded against whatever it shows, and not twice without need."""

from __future__ import annotations

import gzip
from collections.abc import Mapping

import pytest

from serving.admin.page.routes import POLICY, TYPES, PageRoutes
from serving.admin.routes import find_target
from serving.ingress.http import HttpRequest, HttpResponse
from serving.ingress.routes import GET

ROUTES = PageRoutes()


async def ask(path: str, headers: Mapping[bytes, bytes] | None = None) -> HttpResponse:
    target = ROUTES.find(path)
    assert target is not None
    assert target.allow == GET
    assert target.endpoint in ROUTES.endpoints
    return await ROUTES.answer(HttpRequest("GET", path, headers or {}, b""), target)


@pytest.mark.parametrize("path", ["/admin", "/admin/", "/admin/models/digits", "/admin/models/</script>"])
async def test_the_page_is_one_for_all_models_and_for_each(path: str) -> None:
    response = await ask(path)
    assert response.status == 200
    assert response.body.startswith(b"<!doctype html>")
    assert dict(response.headers)[b"content-type"] == b"text/html; charset=utf-8"


@pytest.mark.parametrize(
    ("name", "kind"), [("app.js", b"text/javascript"), ("app.css", b"text/css"), ("icon.svg", b"image/svg+xml")]
)
async def test_its_files_say_what_they_are(name: str, kind: bytes) -> None:
    headers = dict((await ask(f"/admin/{name}")).headers)
    assert headers[b"content-type"].startswith(kind)
    assert headers[b"x-content-type-options"] == b"nosniff"


@pytest.mark.parametrize("path", ["/admin", "/admin/app.js", "/admin/app.css", "/admin/icon.svg"])
async def test_nothing_but_our_own_files_may_act_on_the_page_or_frame_it(path: str) -> None:
    headers = dict((await ask(path)).headers)
    assert headers[b"content-security-policy"] == POLICY
    rules = dict(rule.strip().partition(" ")[::2] for rule in POLICY.decode().split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["frame-ancestors"] == "'none'"
    assert rules["require-trusted-types-for"] == "'script'"
    assert "unsafe" not in POLICY.decode()
    assert {rules[f"{kind}-src"] for kind in ("script", "style", "img", "connect")} == {"'self'"}


@pytest.mark.parametrize(
    "path",
    [
        "/admin/nothing.js",
        "/admin/../routes.py",
        "/admin/assets/app.js",
        "/admin/__init__.py",
        "/admin/models",
        "/admin/models/",
        f"/admin/models/{'x' * 257}",
        "/adminapp.js",
        "/v2/models",
        "/",
    ],
)
def test_nothing_else_is_there(path: str) -> None:
    assert ROUTES.find(path) is None


def test_it_stands_in_the_way_of_no_command() -> None:
    for path in ("/admin", "/admin/models/digits", "/admin/app.js"):
        assert find_target(path) is None


async def test_what_a_browser_has_already_isnt_sent_again() -> None:
    etag = dict((await ask("/admin/app.js")).headers)[b"etag"]
    for known in (etag, b'"other", W/' + etag, b"*"):
        again = await ask("/admin/app.js", {b"if-none-match": known})
        assert (again.status, again.body) == (304, b"")
        assert dict(again.headers)[b"etag"] == etag
        assert dict(again.headers)[b"cache-control"] == b"no-cache"
    assert (await ask("/admin/app.js", {b"if-none-match": b'"other"'})).status == 200


async def test_it_travels_packed_if_the_browser_likes_that_and_is_known_as_another_thing_then() -> None:
    plain, packed = await ask("/admin/app.js"), await ask("/admin/app.js", {b"accept-encoding": b"gzip, deflate, br"})
    assert gzip.decompress(packed.body) == plain.body
    assert len(packed.body) < len(plain.body) / 2
    assert dict(packed.headers)[b"content-encoding"] == b"gzip"
    assert dict(packed.headers)[b"vary"] == b"accept-encoding"
    assert dict(packed.headers)[b"etag"] != dict(plain.headers)[b"etag"]
    assert b"content-encoding" not in dict(plain.headers)
    assert b"content-encoding" not in dict((await ask("/admin", {b"accept-encoding": b"gzip;q=0"})).headers)


async def test_each_file_has_an_etag_of_its_own() -> None:
    names = ["", *(f"/{name}.js" for name in ("app", "view", "feed", "plots", "model")), "/app.css", "/icon.svg"]
    etags = [dict((await ask(f"/admin{name}")).headers)[b"etag"] for name in names]
    assert len(set(etags)) == len(names)
    assert set(TYPES) == {"html", "css", "js", "svg"}
