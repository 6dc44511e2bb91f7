"""Writes docs/settings.md, and the settings' JSON Schema, from the types in ``serving.settings``. Pure.

``python -m serving.settings_doc`` prints the page, with ``--schema`` the schema; ``make docs`` writes both. Not here:
what a setting means; its own description says so.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import msgspec

from serving.settings import Settings

_HEAD: Final = """\
# Settings

Written by `make docs` from `serving/settings.py`; change it there.

The settings are the `args` of the application in `serve_config.yaml`:

```yaml
applications:
  - name: holdfast
    import_path: serving.app:build
    route_prefix: /
    args:
      http: {port: 8000}
      models:
        - {name: digits, versions: [v1, v2], stable: v2}
```

Whatever isn't *required* can be left out. Settings are read and checked once, at the start: an unknown name or an
impossible value stops it with one line that names the setting. `holdfast check` does that without starting anything.
Folders that aren't absolute are taken from where Holdfast is started. No setting comes from the environment, but for
the headers and certificates of `tracing`, which OpenTelemetry reads there; what Ray wants to find there, `holdfast env`
prints.

[settings.schema.json](settings.schema.json) is the JSON Schema of `args`. Beyond it these are refused: a key, a port or
a name that stands there twice; too few ports for the gateways; a `stable`, `fallback` or `shadow` that isn't one of
`versions` or `models`, or is the version itself; a model whose fallbacks lead back to it; a lower bound above its upper
one; `max_batch_bytes` over half of `channel.max_frame_bytes`; an `event_log` or a `cache.redis_url` that can't be one;
and `admin: true` or `faults: true` without an `admin_token_file` where others than this machine can reach Holdfast.

At the start, what the settings name must also be in the registry, and what stands in for a model must take its inputs.
A version may take two minutes until it is ready; if no version at all has answered after three, `holdfast up` ends.
"""
_TABLE: Final = "| Setting | Type | Default | Unit | Meaning |\n|---|---|---|---|---|\n"
_UNITS: Final = {
    "s": "seconds",
    "ms": "milliseconds",
    "us": "microseconds",
    "bytes": "bytes",
    "rows": "rows",
    "mb": "megabytes",
}
_PER_SECOND: Final = "_per_s"
DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_CHOICE: Final = re.compile(r"\^\((\w+(?:\|\w+)+)\)\$")

_TAG_MEANING: Final = "Says which kind of entry this is."

Schema = dict[str, Any]


class Setting(NamedTuple):
    """One setting as the page shows it. ``path`` is dotted, with ``[]`` for the entries of a list."""

    path: str
    type: str
    default: str
    unit: str
    meaning: str


class Section(NamedTuple):
    """The settings of one struct; ``path`` is empty for the outermost.

    ``kind`` is the ``type`` that makes an entry this struct, where entries of one list are of several.
    """

    path: str
    kind: str
    meaning: str
    settings: tuple[Setting, ...]


def settings_schema() -> Schema:
    """The JSON Schema of the settings."""
    return {"$schema": DIALECT, **msgspec.json.schema(Settings)}


def sections() -> list[Section]:
    """All settings: the outermost, then struct by struct."""
    return sections_of(settings_schema())


def sections_of(schema: Schema) -> list[Section]:
    """The same of any struct's schema."""
    return list(_sections(schema["$defs"], schema["$ref"], path="", meaning=""))


def settings_page() -> str:
    """The text of docs/settings.md."""
    return _HEAD + "".join(map(_section_text, sections()))


def schema_text() -> str:
    """The text of docs/settings.schema.json."""
    return json.dumps(settings_schema(), indent=2) + "\n"


def _sections(structs: dict[str, Schema], reference: str, *, path: str, meaning: str) -> Iterator[Section]:
    struct = structs[_name(reference)]
    settings: list[Setting] = []
    inner: list[tuple[str, str]] = []
    for name, schema in struct["properties"].items():
        place = f"{path}.{name}" if path else name
        if (own := _struct_reference(schema)) is not None:
            inner.append((place, own))
            continue
        inner += [(f"{place}[]", entries) for entries in _entries_references(schema)]
        default = "*required*" if name in struct["required"] else _default(schema["default"], _unit(name))
        settings.append(Setting(place, _type(schema), default, _unit(name), schema.get("description", _TAG_MEANING)))
    kind = ", ".join(struct["properties"].get("type", {}).get("enum", ()))
    yield Section(path, kind, meaning, tuple(settings))
    for place, target in inner:
        description = structs[_name(target)].get("description", "")
        yield from _sections(structs, target, path=place, meaning=description)


def _name(reference: str) -> str:
    return reference.rpartition("/")[2]


def _struct_reference(schema: Schema) -> str | None:
    """The struct that a setting is, if it is one, also if it may be left out."""
    options: list[Schema] = schema.get("anyOf", [schema])
    return next((option["$ref"] for option in options if "$ref" in option), None)


def _entries_references(schema: Schema) -> list[str]:
    """The structs that the entries of a list are, if they are such."""
    items = schema.get("items")
    if not isinstance(items, dict):
        return []
    return [option["$ref"] for option in items.get("anyOf", [items]) if "$ref" in option]


def _section_text(section: Section) -> str:
    title = f"`{section.path}`" if section.path else "At the top level"
    if section.kind:
        title += f" of type `{section.kind}`"
    meaning = f"{section.meaning}\n\n" if section.meaning else ""
    rows = [
        f"| `{setting.path}` | {setting.type} | {setting.default} | {setting.unit} | {setting.meaning} |\n"
        for setting in section.settings
    ]
    return f"\n## {title}\n\n{meaning}{_TABLE}{''.join(rows)}"


def _unit(name: str) -> str:
    if name.endswith(_PER_SECOND):
        return "per second"
    return _UNITS.get(name.rpartition("_")[2], "")


def _default(value: Any, unit: str) -> str:
    if value is None or value in ([], ()):
        return "left out"
    if unit == "bytes" and value % 1024 == 0:
        step, name = (1 << 20, "MiB") if value % (1 << 20) == 0 else (1 << 10, "KiB")
        return f"`{value}` ({value // step} {name})"
    if isinstance(value, float):
        return f"`{value:g}`"
    return f"`{value}`" if isinstance(value, str) else f"`{json.dumps(value)}`"


def _type(schema: Schema) -> str:
    """A schema in words. Text that has to match a pattern shows it, unless the pattern is a plain choice."""
    if "anyOf" in schema:
        return " or ".join(_type(option) for option in schema["anyOf"] if option["type"] != "null")
    if schema.get("type") == "object":
        return f"names, each with: {_type(schema['additionalProperties'])}"
    if "prefixItems" in schema:
        return f"[{', '.join(map(_type, schema['prefixItems']))}]"
    if "enum" in schema:
        return ", ".join(schema["enum"])
    if _entries_references(schema):
        return "list, see below"
    if schema["type"] == "array":
        return f"list, each: {_type(schema['items'])}"
    if schema["type"] == "boolean":
        return "true or false"
    if schema["type"] == "string":
        return _text_type(schema)
    return _number_type(schema)


def _text_type(schema: Schema) -> str:
    pattern = schema.get("pattern")
    if pattern is None:
        return "text"
    if (choice := _CHOICE.fullmatch(pattern)) is not None:
        return choice[1].replace("|", ", ")
    length = f", at most {schema['maxLength']} long" if "maxLength" in schema else ""
    return f"`{pattern.strip('^$')}`{length}"


def _number_type(schema: Schema) -> str:
    kind, low, above = schema["type"], schema.get("minimum"), schema.get("exclusiveMinimum")
    lower = f" above {above}" if above is not None else f" from {low}" if low is not None else ""
    upper = f" to {schema['maximum']}" if "maximum" in schema else ""
    if "exclusiveMaximum" in schema:
        upper = f" and under {schema['exclusiveMaximum']:g}"
    return f"{kind}{lower}{upper}"


if __name__ == "__main__":
    sys.stdout.write(schema_text() if "--schema" in sys.argv[1:] else settings_page())
