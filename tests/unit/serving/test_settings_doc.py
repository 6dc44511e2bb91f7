"""docs/settings.md and the settings' JSON Schema are what `make docs` would write now, and say everything."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import yaml

from serving import settings_doc
from serving.model_settings import (
    AdmissionSettings,
    AutoscalingSettings,
    BreakerSettings,
    EjectionSettings,
    ModelSettings,
    RetrySettings,
    ShadowSettings,
    UseStatic,
)
from serving.settings import (
    CacheSettings,
    ChannelSettings,
    GatewaySettings,
    HttpSettings,
    Settings,
    SettingsError,
    parse_settings,
)

ROOT = Path(__file__).parents[3]
STRUCTS: dict[str, type[msgspec.Struct]] = {
    "": Settings,
    "http": HttpSettings,
    "gateway": GatewaySettings,
    "channel": ChannelSettings,
    "gateway.autoscaling": AutoscalingSettings,
    "cache": CacheSettings,
    "models[]": ModelSettings,
    "models[].autoscaling": AutoscalingSettings,
    "models[].admission": AdmissionSettings,
    "models[].breaker": BreakerSettings,
    "models[].ejection": EjectionSettings,
    "models[].retry": RetrySettings,
    "models[].fallback[]": UseStatic,
    "models[].shadow": ShadowSettings,
}


@pytest.mark.parametrize(
    ("document", "arguments"), [("docs/settings.md", ()), ("docs/settings.schema.json", ("--schema",))]
)
def test_the_committed_file_is_what_make_docs_writes(document: str, arguments: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "serving.settings_doc", *arguments]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert (ROOT / document).read_text() == result.stdout, "run `make docs`"


def test_every_setting_of_every_struct_is_on_the_page() -> None:
    page = settings_doc.settings_page()
    for path, struct in STRUCTS.items():
        for field in msgspec.structs.fields(struct):
            place = f"{path}.{field.name}" if path else field.name
            assert f"| `{place}` |" in page or f"## `{place}`" in page, place


def test_every_setting_has_a_description_and_every_section_a_sentence() -> None:
    sections = settings_doc.sections()
    settings = [setting for section in sections for setting in section.settings]
    assert [setting.path for setting in settings if not setting.meaning.endswith(".")] == []
    assert [section.path for section in sections if section.path and not section.meaning.endswith(".")] == []


def test_no_cell_breaks_its_table() -> None:
    cells = [cell for section in settings_doc.sections() for setting in section.settings for cell in setting]
    assert [cell for cell in cells if "|" in cell or "\n" in cell] == []


def test_the_page_shows_ranges_units_and_defaults() -> None:
    rows = {setting.path: setting[1:4] for section in settings_doc.sections() for setting in section.settings}
    assert rows["http.port"] == ("integer from 1 to 65535", "`8000`", "")
    assert rows["http.idle_timeout_s"] == ("number above 0 to 86400", "`60`", "seconds")
    assert rows["tracing.max_per_s"] == ("number above 0 to 10000", "`20`", "per second")
    assert rows["http.body_max_bytes"] == ("integer from 1", "`67108864` (64 MiB)", "bytes")
    assert rows["models[].name"] == ("`[a-z0-9][a-z0-9._-]*`, at most 128 long", "*required*", "")
    assert rows["models"] == ("list, see below", "left out", "")
    assert rows["log_level"] == ("DEBUG, INFO, WARNING, ERROR", "`INFO`", "")


def test_the_example_on_the_page_is_a_configuration() -> None:
    page = settings_doc.settings_page()
    example = yaml.safe_load(page.split("```yaml\n")[1].split("```")[0])
    assert parse_settings(example["applications"][0]["args"]).model("digits") is not None


@pytest.mark.parametrize("raw", [{"nonsense": 1}, {"http": {"port": 0}}, {"models": [{"name": "a"}]}])
def test_what_the_schema_refuses_the_settings_refuse(raw: dict[str, object]) -> None:
    validators = pytest.importorskip("jsonschema")
    schema = json.loads(settings_doc.schema_text())
    with pytest.raises(validators.ValidationError):
        validators.validate(raw, schema)
    with pytest.raises(SettingsError):
        parse_settings(raw)


def test_the_schema_takes_our_own_configuration() -> None:
    validators = pytest.importorskip("jsonschema")
    document = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    validators.validate(document["applications"][0]["args"], json.loads(settings_doc.schema_text()))
