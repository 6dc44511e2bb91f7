"""What of a cache can't be had costs only itself."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from serving.cache_setup import open_cache
from serving.model_settings import ModelSettings, UseCache
from serving.settings import CacheSettings, Settings
from tests.fakes import FakeClock

CACHED = ModelSettings(name="m", versions=("v1",), fallback=(UseCache(),))


async def test_a_redis_that_the_library_cant_read_is_told_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = CacheSettings(redis_url="redis://:secret@h:6379/0?socket_timeout=soon", max_bytes=1 << 20)
    settings = Settings(state_dir=str(tmp_path), models=(CACHED,), cache=cache)
    with caplog.at_level(logging.ERROR, "holdfast.cache"):
        opened = await open_cache(settings, clock=FakeClock(), random=lambda: 0.5)
    assert opened is not None
    await opened.close()
    assert "cache.redis_url: " in caplog.text
    assert "secret" not in caplog.text
