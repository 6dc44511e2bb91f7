"""docs/api.md has every endpoint with its method, every header and every error, and nothing that isn't there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from serving.admin import bodies, guard
from serving.admin import routes as admin
from serving.admin.page import routes as page
from serving.incidents import keeper
from serving.ingress import routes
from serving.ingress.haproxy import ACCEPTING_PATH
from serving.live import routes as live
from serving.live.hub import VIEWERS_MAX
from serving.live.series import KEPT_S
from serving.protocol.compression import COMPRESS_MIN_BYTES
from serving.protocol.decode import EMPTY_TENSOR_MAX_SIZE
from serving.protocol.status import STATUS
from serving.request.deadline import TIMEOUT_HEADER, TIMEOUT_MAX_US
from serving.request.sticky import STICKY_HEADER, STICKY_KEY_MAX_BYTES
from serving.tracing import export
from serving.tracing.context import REQUEST_ID, REQUEST_ID_MAX
from serving.tracing.w3c import TRACEPARENT, TRACERESPONSE, TRACESTATE

PAGE = (Path(__file__).parents[3] / "docs/api.md").read_text()
METRICS = (Path(__file__).parents[3] / "docs/metrics.md").read_text()
MODEL = "/v2/models/{model}"
VERSION = "/v2/models/{model}/versions/{version}"

ROWS = re.findall(r"^\| (GET|POST|DELETE) \| `(/[^`]*)` \|", PAGE, re.MULTILINE)


def endpoints() -> set[tuple[str, str]]:
    """Every method and path that the routes take; HEAD goes with GET."""
    everywhere = {
        **routes._FIXED,
        **admin.FIXED,
        **live.FIXED,
        page.PAGE: page.THE_PAGE,
        f"{page.OF_MODEL}{{model}}": page.THE_PAGE,
        f"{admin.BREAKERS}{{model}}/{{version}}/close": admin.CLOSE,
        **{f"{admin.REPOSITORY}{{model}}/{name}": target for name, target in admin.OF_REPOSITORY.items()},
        f"{admin.INCIDENTS}{{id}}": admin.OF_INCIDENT,
        **{f"{admin.ROLLOUTS}{{model}}/{name}".rstrip("/"): target for name, target in admin.OF_ROLLOUT.items()},
    }
    fixed = {(method, path) for path, target in everywhere.items() for method in target.allow if method != "HEAD"}
    of_model = {
        (allow[0], "/".join((base, *rest)))
        for rest, (_, allow) in routes._OF_MODEL.items()
        for base in (MODEL, VERSION)
    }
    return fixed | of_model


def test_the_page_lists_the_endpoints_that_there_are() -> None:
    assert set(ROWS) == endpoints()
    assert len(ROWS) == len(endpoints())


@pytest.mark.parametrize(("method", "path"), ROWS, ids=lambda word: word)
def test_every_path_on_the_page_leads_somewhere(method: str, path: str) -> None:
    asked = path.format(model="digits", version="v1", id="7")
    if (file := page.asset_name(asked)) is not None:
        assert (method in page.THE_PAGE.allow, file) == (True, page.INDEX)
        return
    target = admin.find_target(asked) or live.FIXED.get(asked) or routes.find_target(asked)
    assert method in target.allow
    assert target.model == ("digits" if "{model}" in path else "7" if "{id}" in path else "")
    assert target.version == ("v1" if "{version}" in path else None)


def test_the_page_lists_every_error_with_its_status() -> None:
    rows = re.findall(r"^\| (\d{3}) \| `(\w+)` \|", PAGE, re.MULTILINE)
    assert sorted((int(status), code) for status, code in rows) == sorted(
        (status, error.code) for error, status in STATUS.items()
    )


def test_the_page_names_the_headers_and_bounds_of_the_code() -> None:
    named = (
        routes._LENGTH,
        routes._VERSION,
        TIMEOUT_HEADER.encode(),
        STICKY_HEADER.encode(),
        REQUEST_ID,
        TRACERESPONSE,
    )
    for header in named:
        assert f"| `{header.decode()}` |" in PAGE.lower()
    assert f"{TIMEOUT_MAX_US:,}".replace(",", " ") in PAGE
    assert f"{EMPTY_TENSOR_MAX_SIZE:,}".replace(",", " ") in PAGE
    assert f"at least {COMPRESS_MIN_BYTES} bytes" in PAGE
    assert f"at most {STICKY_KEY_MAX_BYTES} bytes" in PAGE
    assert f"`{ACCEPTING_PATH}`" in PAGE
    assert f"`limit` of 1 to {bodies.LIMIT_MAX} ({bodies.LIMIT_DEFAULT} if left out)" in PAGE
    assert f"up to the last {KEPT_S} seconds" in PAGE
    assert f"At most {VIEWERS_MAX} may watch one gateway" in PAGE
    assert f"`{TRACEPARENT.decode()}`, `{TRACESTATE.decode()}`" in PAGE
    assert f"at most {REQUEST_ID_MAX} characters" in PAGE
    for reason in export.REASONS:
        assert f"`{reason}`" in METRICS
    for reason in keeper.REASONS:
        assert f"`{reason}`" in METRICS
    for reason in guard.REASONS:
        assert f"`{reason}`" in METRICS


def test_every_link_to_a_section_of_the_page_finds_it() -> None:
    sections = {title.lower().replace(" ", "-") for title in re.findall(r"^## (.+)$", PAGE, re.MULTILINE)}
    assert set(re.findall(r"\]\(#([^)]+)\)", PAGE)) <= sections
