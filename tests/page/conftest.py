"""One Chromium for all tests of the page."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.browser import Tab, browser
from tests.page_server import PageServer, page_server


@pytest.fixture(scope="session")
def chromium() -> Iterator[Tab]:
    with browser() as tab:
        yield tab


@pytest.fixture
def tab(chromium: Tab) -> Iterator[Tab]:
    """The tab of somebody who hasn't been here, on an ordinary screen; nothing may go wrong in it unsaid."""
    chromium.look()
    chromium.open("about:blank")
    chromium.problems.clear()
    yield chromium
    assert chromium.problems == []


@pytest.fixture
def page() -> Iterator[PageServer]:
    with page_server() as server:
        yield server
