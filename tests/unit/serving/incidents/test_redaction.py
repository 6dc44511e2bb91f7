"""The function that says what may be kept is found by its name, or the start says why it isn't."""

from __future__ import annotations

import pytest

from serving.cluster import StartError, check_redaction
from serving.incidents.redaction import load_redaction
from serving.settings import IncidentSettings, Settings, SettingsError, parse_settings


def test_a_function_is_found_by_its_name() -> None:
    from serving.incidents.redaction import nothing

    assert load_redaction("serving.incidents.redaction:nothing") is nothing


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("no.such.module:function", "ModuleNotFoundError"),
        ("serving.incidents.redaction:gone", "AttributeError"),
        ("serving.incidents.redaction:log", "is no function"),
    ],
)
def test_one_that_can_not_be_had_stops_the_start_with_a_line_that_names_the_setting(name: str, why: str) -> None:
    with pytest.raises(SettingsError, match=f"incidents.redaction: {name}.*{why}"):
        load_redaction(name)
    with pytest.raises(StartError, match=r"incidents\.redaction"):
        check_redaction(Settings(incidents=IncidentSettings(redaction=name)))


@pytest.mark.parametrize("name", ["module.function", "module:", ":function", "a b:c"])
def test_what_is_no_name_of_a_function_is_no_setting(name: str) -> None:
    with pytest.raises(SettingsError, match=r"incidents\.redaction"):
        parse_settings({"incidents": {"redaction": name}})
