"""Settings are read once, whole, and refused with the name of what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from serving.model_settings import ModelSettings, UseModel
from serving.settings import Settings, SettingsError, absolute, parse_settings

ONE_MODEL = {"name": "m", "versions": ["v1", "v2"]}


@pytest.mark.parametrize("raw", [None, {}])
def test_everything_has_a_default(raw: Any) -> None:
    settings = parse_settings(raw)
    assert settings == Settings()
    assert (settings.http.host, settings.http.port, settings.models) == ("127.0.0.1", 8000, ())


def test_what_is_given_is_taken_and_the_rest_keeps_its_default() -> None:
    settings = parse_settings(
        {"http": {"port": 9000}, "models": [{**ONE_MODEL, "timeout_ms": 50}], "gateway": {"replicas": 3}}
    )
    assert (settings.http.port, settings.gateway.replicas, settings.http.host) == (9000, 3, "127.0.0.1")
    assert settings.models[0].timeout_ms == 50
    assert settings.model("m") == settings.models[0]
    assert settings.model("n") is None


def test_the_stable_version_is_the_last_unless_one_is_named() -> None:
    assert ModelSettings(name="m", versions=("v1", "v2")).stable_version == "v2"
    assert ModelSettings(name="m", versions=("v1", "v2"), stable="v1").stable_version == "v1"


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ({"prot": 1}, "unknown setting `prot`"),
        ({"http": {"prot": 1}}, "http: unknown setting `prot`"),
        ({"models": [{**ONE_MODEL, "timeout": 1}]}, "models[0]: unknown setting `timeout`"),
        ({"models": [ONE_MODEL, {"name": "n"}]}, "models[1]: Object missing required field `versions`"),
        ({"http": {"port": 0}}, "http.port: Expected `int` >= 1"),
        ({"http": {"port": 70_000}}, "http.port: Expected `int` <= 65535"),
        ({"http": {"port": "8000"}}, "http.port: Expected `int`, got `str`"),
        ({"http": {"port": True}}, "http.port: Expected `int`, got `bool`"),
        ({"http": {"idle_timeout_s": 0}}, "http.idle_timeout_s: Expected `float` > 0"),
        ({"http": {"idle_timeout_s": float("nan")}}, "http.idle_timeout_s: Expected `float`"),
        ({"http": {"gateway_ports": [8100]}}, "http.gateway_ports: Expected `array` of length 2"),
        ({"http": {"gateway_ports": [8107, 8100]}}, "http.gateway_ports: 8107 is above 8100"),
        ({"http": {"port": 8103}}, "http.port: 8103 is one of http.gateway_ports 8100-8107"),
        ({"gateway": {"replicas": 9}}, "gateway.replicas: 9 replicas need as many ports"),
        ({"models": [{**ONE_MODEL, "name": "../m"}]}, "models[0].name: Expected `str` matching regex"),
        ({"models": [{**ONE_MODEL, "versions": []}]}, "models[0].versions: Expected `array` of length >= 1"),
        (
            {"models": [{**ONE_MODEL, "versions": ["v1", "v1"]}]},
            "models[0]: versions: ['v1', 'v1'] names a version twice",
        ),
        ({"models": [{**ONE_MODEL, "stable": "v9"}]}, "models[0]: stable: 'v9' isn't one of versions ['v1', 'v2']"),
        ({"models": [ONE_MODEL, ONE_MODEL]}, "models: 'm' stands there twice"),
        (
            {"models": [{**ONE_MODEL, "max_batch_bytes": 1 << 30}]},
            "models[0].max_batch_bytes: 1073741824 is more than half",
        ),
        ({"log_level": "LOUD"}, "log_level: Expected `str` matching regex"),
        ([], "Expected `object`, got `array`"),
        ("http", "Expected `object`, got `str`"),
    ],
)
def test_what_is_wrong_is_named(raw: Any, text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_settings(raw)
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize(
    ("given", "hang_after_ms"),
    [
        ({}, 5000),
        ({"timeout_ms": 60_000}, 30_000),
        ({"timeout_ms": 100}, 5000),
        ({"timeout_ms": 60_000, "retry": {"attempt_timeout_ms": 45_000}}, 45_000),
        ({"timeout_ms": 60_000, "retry": {"attempt_timeout_ms": 90_000}}, 60_000),
        ({"timeout_ms": 60_000, "retry": {"enabled": False}}, 60_000),
        ({"timeout_ms": 60_000, "retry": {"attempts": 1}}, 60_000),
        ({"timeout_ms": 60_000, "retry": {"enabled": False, "attempt_timeout_ms": 9_000}}, 60_000),
        ({"timeout_ms": 60_000, "hang_timeout_ms": 700}, 700),
    ],
)
def test_a_run_as_long_as_one_attempt_of_several_is_not_hung_unless_a_setting_says_so(
    given: dict[str, Any], hang_after_ms: float
) -> None:
    settings = parse_settings({"models": [{**ONE_MODEL, **given}]})
    assert settings.models[0].hang_after_ms == hang_after_ms


def test_settings_cannot_be_changed() -> None:
    settings = parse_settings({"models": [ONE_MODEL]})
    for part in (settings, settings.http, settings.gateway, settings.channel, settings.models[0]):
        with pytest.raises(AttributeError, match="immutable"):
            setattr(part, part.__struct_fields__[0], None)


def test_every_folder_becomes_absolute(tmp_path: Path) -> None:
    relative = parse_settings({"state_dir": "state", "channel": {"socket_dir": "sockets"}})
    settings = absolute(relative, tmp_path)
    assert settings.state_dir == str(tmp_path / "state")
    assert settings.store_dir == tmp_path / "state" / "models"
    assert settings.channel.socket_dir == str(tmp_path / "sockets")
    assert absolute(settings, Path("/elsewhere")) == settings
    token = absolute(parse_settings({"admin_token_file": "token"}), tmp_path)
    assert token.admin_token_file == str(tmp_path / "token")
    assert absolute(token, Path("/elsewhere")) == token
    assert absolute(parse_settings({"store": "../store"}), tmp_path).store_dir == tmp_path.parent / "store"


@pytest.mark.parametrize(
    ("http", "admin", "token", "allowed"),
    [
        ({"host": "127.0.0.1"}, None, None, True),
        ({"host": "::1"}, None, None, True),
        ({"host": "0.0.0.0"}, None, None, False),
        ({"gateway_host": "0.0.0.0"}, None, None, False),
        ({"host": "0.0.0.0"}, None, "token", True),
        ({"host": "0.0.0.0"}, True, "token", True),
        ({"host": "0.0.0.0"}, False, "token", False),
        ({"host": "127.0.0.1"}, True, None, True),
        ({"host": "127.0.0.1"}, False, None, False),
    ],
)
def test_the_system_may_be_changed_from_here_and_by_strangers_only_with_a_token(
    http: dict[str, str], admin: bool | None, token: str | None, allowed: bool
) -> None:
    settings = parse_settings({"http": http, "admin": admin, "admin_token_file": token})
    assert settings.admin_allowed == allowed


@pytest.mark.parametrize("http", [{"host": "0.0.0.0"}, {"gateway_host": "10.0.0.7"}])
def test_strangers_who_may_change_the_system_need_a_token_to_show(http: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match=r"^admin: others than this machine can reach .*set admin_token_file$"):
        parse_settings({"http": http, "admin": True})


@pytest.mark.parametrize("http", [{"host": "0.0.0.0"}, {"gateway_host": "10.0.0.7"}])
@pytest.mark.parametrize("admin", [None, False])
def test_strangers_who_may_make_replicas_fail_need_a_token_to_show(http: dict[str, str], admin: bool | None) -> None:
    raw = {"http": http, "admin": admin, "faults": True}
    with pytest.raises(SettingsError, match=r"^faults: others than this machine can reach .*set admin_token_file$"):
        parse_settings(raw)
    assert parse_settings({**raw, "admin_token_file": "token"}).faults
    assert parse_settings({"faults": True, "admin": admin}).faults


def two_models(first: dict[str, object], second: dict[str, object]) -> dict[str, object]:
    return {"models": [{"name": "a", "versions": ["v1", "v2"], **first}, {"name": "b", "versions": ["v1"], **second}]}


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (
            two_models({"fallback": [{"type": "model", "model": "c"}]}, {}),
            "models[0].fallback[0].model: 'c' isn't one of models",
        ),
        (
            two_models({"fallback": [{"type": "cache"}, {"type": "model", "model": "a"}]}, {}),
            "models[0].fallback[1].model: 'a' falls back to itself",
        ),
        (
            two_models(
                {"fallback": [{"type": "model", "model": "b"}]}, {"fallback": [{"type": "model", "model": "a"}]}
            ),
            "models[0].fallback[0].model: 'a' falls back to 'b', whose chain leads back to 'a'",
        ),
        (
            two_models({"fallback": [{"type": "version", "version": "v3"}]}, {}),
            "models[0]: fallback[0].version: 'v3' isn't one of versions",
        ),
        (
            two_models({"fallback": [{"type": "version", "version": "v2"}]}, {}),
            "models[0]: fallback[0].version: 'v2' is the stable version itself",
        ),
        (
            two_models({"fallback": [{"type": "cache"}, {"type": "cache"}]}, {}),
            "models[0]: fallback[1]: stands there twice",
        ),
        (two_models({"shadow": {}}, {}), "models[0].shadow: exactly one of model and version"),
        (
            two_models({"shadow": {"model": "b", "version": "v1"}}, {}),
            "models[0].shadow: exactly one of model and version",
        ),
        (two_models({"shadow": {"model": "c"}}, {}), "models[0].shadow.model: 'c' isn't one of models"),
        (two_models({"shadow": {"model": "a"}}, {}), "models[0].shadow.model: 'a' is the model itself"),
        (two_models({"shadow": {"version": "v3"}}, {}), "models[0]: shadow.version: 'v3' isn't one of versions"),
        (two_models({"shadow": {"version": "v2"}}, {}), "models[0]: shadow.version: 'v2' is the stable version"),
        (two_models({"shadow": {"model": "b", "share": 0}}, {}), "models[0].shadow.share: "),
        (two_models({"shadow": {"model": "b", "compare": "eye"}}, {}), "models[0].shadow.compare: "),
        (two_models({"shadow": {"model": "b", "shares": 1}}, {}), "unknown setting `shares`"),
        (two_models({"fallback": [{"type": "prayer"}]}, {}), "models[0].fallback[0].type: "),
        (two_models({"fallback": [{"type": "cache", "max_stale": 3}]}, {}), "unknown setting `max_stale`"),
        (two_models({"admission": {"limit_min": 9, "limit_max": 8}}, {}), "limit_min: 9 is above limit_max 8"),
        (two_models({"autoscaling": {"min_replicas": 3, "max_replicas": 2}}, {}), "min_replicas: 3 is above"),
        (two_models({"breaker": {"failure_rate": 1.5}}, {}), "models[0].breaker.failure_rate: "),
        ({"gateway": {"autoscaling": {"max_replicas": 9}}}, "gateway.replicas: 9 replicas need as many ports"),
        ({"cache": {"redis_url": "localhost"}}, "cache.redis_url: "),
        ({"cache": {"redis_url": "redis://:pa/ss@h:6379/0"}}, "cache.redis_url: it isn't redis://"),
        ({"event_log": "mysql://u:p@h/db"}, "event_log: it is a path, sqlite:///path or postgresql://"),
        ({"event_log": ""}, "event_log: it is empty"),
    ],
)
def test_a_protection_that_can_not_be_is_refused_with_its_key(raw: object, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_settings(raw)
    assert said in str(caught.value)


def test_a_chain_may_end_where_another_one_ends() -> None:
    raw = two_models({"fallback": [{"type": "version", "version": "v1"}, {"type": "model", "model": "b"}]}, {})
    assert parse_settings(raw).models[0].fallback[1:] == (UseModel(model="b"),)


def test_models_may_shadow_each_other() -> None:
    raw = two_models({"shadow": {"model": "b"}}, {"shadow": {"model": "a", "share": 1}})
    assert [model.shadow.share for model in parse_settings(raw).models if model.shadow] == [0.1, 1.0]
