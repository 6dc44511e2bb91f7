"""Reads a rollout file: YAML in, a ``RolloutSpec`` out, or every mistake with its line and key. Pure.

What is allowed is said by the types of ``serving.rollout.spec`` alone; here they are only held against the lines of a
text. Not here: whether the version exists and which one is stable (``serving.rollout.desired``).
"""

from __future__ import annotations

import re
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Literal, NamedTuple, get_args, get_origin

import msgspec
import yaml

from serving.plain_yaml import line_of, plain
from serving.rollout.spec import DURATION_PATTERN, RolloutSpec, Step, step_faults

MAX_CHARACTERS: Final = 16 << 10
MAX_DEPTH: Final = 20
_NOTHING: Final = object()
_WORDS: Final = {
    "object": "keys",
    "array": "a list",
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "null": "nothing",
}
_LIMIT: Final = re.compile(r"Expected `\w+` (<=|<|>=|>) (\S+)$")
_WRONG_TYPE: Final = re.compile(r"Expected `([\w| ]+)`, got `(\w+)`$")


class Fault(NamedTuple):
    """One mistake. ``key`` is dotted, with ``[i]`` for entries of a list, and empty for the file as a whole."""

    line: int
    key: str
    message: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.key}: {self.message}" if self.key else f"line {self.line}: {self.message}"


class RolloutFileError(Exception):
    """The file can't be used; the text says where and why of the first mistake, ``faults`` has them all."""

    def __init__(self, faults: tuple[Fault, ...]) -> None:
        self.faults = faults
        self.line, self.key, _ = faults[0]
        more = f" (and {len(faults) - 1} more: `holdfast rollout lint` lists them)" if len(faults) > 1 else ""
        super().__init__(f"{faults[0]}{more}")


def parse_rollout(text: str) -> RolloutSpec:
    """The rollout that the text describes; raises ``RolloutFileError``."""
    spec, faults = _read(text)
    if spec is None:
        raise RolloutFileError(faults)
    return spec


def lint_rollout(text: str) -> list[str]:
    """All mistakes at once, in the order of their lines; none if the file is good."""
    return [str(fault) for fault in _read(text)[1]]


def _read(text: str) -> tuple[RolloutSpec | None, tuple[Fault, ...]]:
    try:
        root = _compose(text)
        reader = _Reader()
        raw = reader.value(root, RolloutSpec, "")
    except _NotYaml as error:
        return None, (error.fault,)
    faults = reader.faults
    if isinstance(raw, dict) and faults:
        faults += _faults_between_steps(root, raw.get("steps"), known={fault.key for fault in faults})
    if isinstance(raw, dict):
        faults += _never_compared(root, raw.get("steps"), raw.get("analysis"))
    if faults:
        return None, tuple(sorted(faults))
    return msgspec.convert(raw, RolloutSpec), ()


def located(text: str, message: str) -> str:
    """The message with the line in front, if it begins with a key of the file; else as it is."""
    key, colon, _ = message.partition(": ")
    if not colon or not re.fullmatch(r"[\w.\[\]]+", key):
        return message
    try:
        node = _node_at(_compose(text), key)
    except _NotYaml:
        return message
    return f"line {line_of(node.start_mark)}: {message}"


class _NotYaml(Exception):
    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        super().__init__(str(fault))


def _compose(text: str) -> yaml.Node:
    """The text as YAML's tree of nodes, which know their lines."""
    if len(text) > MAX_CHARACTERS:
        raise _NotYaml(Fault(1, "", f"longer than {MAX_CHARACTERS} characters: that is no rollout"))
    try:
        _survey(text)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise _NotYaml(Fault(line, "", f"no YAML: {error.reason}")) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        words = ", ".join(part for part in (error.context, error.problem) if part)
        raise _NotYaml(Fault(line_of(mark), "", f"no YAML: {words}")) from None
    if root is None:
        raise _NotYaml(Fault(1, "", "the file is empty"))
    return root


def _survey(text: str) -> None:
    """Refuses, before anything is built, what could cost much: a few aliases could mean gigabytes."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise _NotYaml(Fault(line_of(event.start_mark), "", f"*{event.anchor}: write it out; no aliases here"))
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise _NotYaml(Fault(line_of(event.start_mark), "", "nested too deeply: that is no rollout"))


class _Reader:
    """Turns nodes into plain data and writes down what the types don't allow.

    What is faulty is left out of the data, so that one mistake isn't told twice.
    """

    def __init__(self) -> None:
        self.faults: list[Fault] = []

    def value(self, node: yaml.Node, annotation: Any, key: str) -> Any:
        kind = _bare(annotation)
        if isinstance(node, yaml.MappingNode) and isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            return self._struct(node, kind, key)
        if isinstance(node, yaml.SequenceNode) and get_origin(kind) is tuple:
            entry = get_args(kind)[0]
            return [self.value(item, entry, f"{key}[{index}]") for index, item in enumerate(node.value)]
        try:
            value = plain(node)
            msgspec.convert(value, annotation)
            if isinstance(value, str) and not value.isprintable():
                return self._fault(node, key, "more than one line of text")
        except yaml.MarkedYAMLError as error:
            return self._fault(node, key, f"can't be read: {error.problem}")
        except (ValueError, RecursionError) as error:  # msgspec's, and YAML's of a date that isn't one
            return self._fault(node, key, _leaf_message(node, annotation, str(error)))
        return value

    def _struct(self, node: yaml.MappingNode, kind: type[msgspec.Struct], key: str) -> Any:
        fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
        values: dict[str, Any] = {}
        before = len(self.faults)
        for key_node, value_node in node.value:
            name = key_node.value if isinstance(key_node, yaml.ScalarNode) else "?"
            place = _below(key, name)
            if name not in fields:
                self._fault(key_node, place, f"unknown key; known here: {', '.join(fields)}")
            elif name in values:
                self._fault(key_node, place, "stands there twice")
            else:
                values[name] = self.value(value_node, fields[name].type, place)
        for name, field in fields.items():
            if field.required and name not in values:
                self._fault(node, _below(key, name), "missing")
        if len(self.faults) == before:
            return self._whole(node, kind, key, values)
        return {name: value for name, value in values.items() if value is not _NOTHING}

    def _whole(self, node: yaml.MappingNode, kind: type[msgspec.Struct], key: str, values: dict[str, Any]) -> Any:
        """The struct's own rules, once its parts are good. They begin with the key that they are about, if any."""
        try:
            msgspec.convert(values, kind)
        except msgspec.ValidationError as error:
            message, _, path = str(error).partition(" - at `$")
            place = path.rstrip("`").lstrip(".")
            if not place and re.match(r"[\w.\[\]]+: ", message):
                place, _, message = message.partition(": ")
            message = message.replace("Expected `array` of length >= 1", "needs at least one entry")
            message = message.replace("Expected `array` of length <= ", "has too many entries; at most ")
            return self._fault(_node_at(node, place), _below(key, place), message)
        return values

    def _fault(self, node: yaml.Node, key: str, message: str) -> object:
        self.faults.append(Fault(line_of(node.start_mark), key, message))
        return _NOTHING


def _faults_between_steps(root: yaml.Node, steps: Any, *, known: set[str]) -> list[Fault]:
    """What is wrong between the steps, said also when the file has other mistakes and so never became a spec."""
    if not isinstance(steps, list) or any(key.startswith("steps") for key in known):
        return []
    return [
        Fault(line_of(_node_at(root, f"steps[{index}]").start_mark), f"steps[{index}]", message)
        for index, message in step_faults(tuple(msgspec.convert(step, Step) for step in steps))
    ]


def _never_compared(root: yaml.Node, steps: Any, analysis: Any) -> list[Fault]:
    """An agreement that nothing can ever come to: it is demanded, but nothing is mirrored at 100 %.

    Not a rule of the spec itself: there are event logs that have such a rollout, and must stay readable.
    """
    first = steps[0] if isinstance(steps, list) and steps else None
    mirrors = isinstance(analysis, dict) and analysis.get("shadow") is not None
    if not mirrors or not isinstance(first, dict) or first.get("setWeight") != 100:
        return []
    message = (
        "needs a weight under 100 first: at 100 nothing is mirrored, so there is nothing to compare; begin the steps "
        "with a smaller setWeight, or leave out shadow"
    )
    return [Fault(_line(_node_at(root, "analysis.shadow").start_mark), "analysis.shadow", message)]


def _bare(annotation: Any) -> Any:
    """The type without its description, and of something that may be left out the thing itself."""
    if get_origin(annotation) is Annotated:
        return _bare(get_args(annotation)[0])
    if get_origin(annotation) is UnionType:
        return _bare(next(one for one in get_args(annotation) if one is not NoneType))
    return annotation


def _is_duration(annotation: Any) -> bool:
    if isinstance(annotation, msgspec.Meta):
        return annotation.pattern == DURATION_PATTERN
    return any(map(_is_duration, get_args(annotation)))


def _leaf_message(node: yaml.Node, annotation: Any, said: str) -> str:
    """What msgspec says of a value, in the words of those who write YAML."""
    shown = node.value if isinstance(node, yaml.ScalarNode) else ""
    quoted = f"'{shown}'" if shown else "that"
    said = said.partition(" - at `$")[0]
    if _is_duration(annotation):
        return f"{quoted} is no duration; write 500ms, 30s, 5m or 1h"
    if get_origin(_bare(annotation)) is Literal:
        return f"{quoted} isn't one of {', '.join(get_args(_bare(annotation)))}"
    if (limit := _LIMIT.match(said)) is not None:
        return f"{shown} isn't allowed; it must be {limit[1]} {limit[2]}"
    if (types := _WRONG_TYPE.match(said)) is not None:
        wanted, got = (_WORDS.get(name, name) for name in (types[1].partition(" |")[0], types[2]))
        hint = f"; put it in quotes: '{shown}'" if wanted == "text" and shown else ""
        return f"must be {wanted}, but {quoted} is {got}{hint}"
    if "regex" in said:
        return f"{quoted} is no name; small letters, digits and . _ - only"
    return f"{quoted}: {said}"


def _below(key: str, name: str) -> str:
    return f"{key}.{name}" if key and name else key or name


def _node_at(node: yaml.Node, place: str) -> yaml.Node:
    """The node below another one that a dotted place means; the nearest there is."""
    for part in re.findall(r"\w+", place):
        inside: yaml.Node | None = None
        if isinstance(node, yaml.SequenceNode):
            inside = node.value[int(part)] if part.isdecimal() and int(part) < len(node.value) else None
        elif isinstance(node, yaml.MappingNode):
            inside = next((value for key, value in node.value if key.value == part), None)
        if inside is None:
            return node
        node = inside
    return node
