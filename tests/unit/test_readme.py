"""The documents for newcomers must not lie: their commands parse and exist, their links lead somewhere."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCUMENTS = (
    "README.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    *sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").glob("*.md")),
    "docs/adr/README.md",
    *sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs/runbooks").glob("*.md")),
)
SHELL = frozenset({"sh", "bash", "shell"})
RUN_THE_COMMAND_LINE = "import sys; from serving.cli import main; sys.argv[0] = 'holdfast'; sys.exit(main())"


@dataclass(frozen=True)
class Block:
    """A fenced block: where it starts, its language, its text."""

    where: str
    language: str
    text: str


def blocks_of(document: str, text: str) -> list[Block]:
    fences = re.finditer(r"^ *```(\w*)[^\n]*\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL)
    return [Block(f"{document}:{text[: m.start()].count(chr(10)) + 1}", m[1], m[2]) for m in fences]


def code_of(text: str) -> str:
    """What is written as code, in blocks and in lines: the only place where a command is a command."""
    fenced = [block.text for block in blocks_of("", text)]
    without = re.sub(r"^ *```.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return "\n".join([*fenced, *re.findall(r"`([^`\n]+)`", without)])


def commands(program: str, text: str) -> list[str]:
    """The distinct first words after a program's name where it is run: 'make test' gives 'test'."""
    found = re.findall(rf"(?:^|[\s;&|(/]){program}[ \t]+([a-z][a-z-]*)", code_of(text), re.MULTILINE)
    return sorted(set(found))


def invocations(text: str) -> list[tuple[str, ...]]:
    """The distinct ways in which holdfast is run: its commands, then its options, without values and file names."""
    found = set()
    for words in re.findall(r"(?:^|[\s;&|(/])holdfast[ \t]+([a-z][^\n;&|#)]*)", code_of(text), re.MULTILINE):
        tokens = shlex.split(words)
        commands = takewhile(lambda token: re.fullmatch(r"[a-z][a-z-]*", token), tokens)
        found.add((*commands, *(token for token in tokens if token.startswith("--"))))
    return sorted(found)


def makefile_targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


TEXTS = {name: (ROOT / name).read_text() for name in DOCUMENTS}
BLOCKS = [block for name, text in TEXTS.items() for block in blocks_of(name, text)]
HOLDFAST = sorted({invocation for text in TEXTS.values() for invocation in invocations(text)})


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language in SHELL], ids=lambda b: b.where)
def test_a_shell_block_parses(block: Block) -> None:
    result = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "python"], ids=lambda b: b.where)
def test_a_python_block_compiles(block: Block) -> None:
    compile(block.text, block.where, "exec")


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "json"], ids=lambda b: b.where)
def test_a_json_block_is_json(block: Block) -> None:
    json.loads(block.text)


def test_the_answer_in_the_readme_is_a_three_from_the_stable_version_of_the_configuration() -> None:
    answer = json.loads(next(block.text for block in BLOCKS if block.language == "json" and "README" in block.where))
    document = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    models = {model["name"]: model for model in document["applications"][0]["args"]["models"]}
    assert answer["model_version"] == models[answer["model_name"]]["stable"]
    assert [output["data"] for output in answer["outputs"] if output["name"] == "label"] == [[3]]


def test_every_block_says_its_language() -> None:
    assert [block.where for block in BLOCKS if not block.language] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_make_target_that_is_named_exists(document: str) -> None:
    assert set(commands("make", TEXTS[document])) <= makefile_targets()


@pytest.mark.parametrize("invocation", HOLDFAST, ids=" ".join)
def test_every_holdfast_command_and_option_that_is_named_exists(invocation: tuple[str, ...]) -> None:
    if not (ROOT / "serving/cli.py").exists():
        pytest.skip("the command line isn't written yet")
    commands = [word for word in invocation if not word.startswith("--")]
    result = subprocess.run(
        [sys.executable, "-c", RUN_THE_COMMAND_LINE, *commands, "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    # `holdfast chaos` hands its words on to a program of its own.
    usage = re.match(r"usage: (?:holdfast|python -m loadtests\.(?=chaos))((?: ?[a-z][a-z-]*)+)", result.stdout)
    assert usage is not None
    known = usage[1].split()
    assert known == commands[: len(known)]
    assert known == commands or "positional arguments:" in result.stdout, "words that the command doesn't take"
    assert [option for option in invocation[len(commands) :] if option not in result.stdout] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_to_a_file_leads_somewhere(document: str) -> None:
    links = re.findall(r"\]\((?!https?://|#)([^)#\s]+)", TEXTS[document])
    assert [link for link in links if not (ROOT / document).parent.joinpath(link).exists()] == []


def test_the_adr_index_lists_every_adr() -> None:
    written = {path.name for path in (ROOT / "docs/adr").glob("[0-9]*.md")}
    assert set(re.findall(r"\]\((\d{4}-[a-z0-9-]+\.md)\)", TEXTS["docs/adr/README.md"])) == written


def test_the_readme_says_how_to_start_and_how_to_test() -> None:
    assert {"serve", "test"} <= set(commands("make", TEXTS["README.md"]))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("```sh\nmake serve\n```\n", ["serve"]),
        ("Run `make test`, then `cd x && make lint`.\n", ["lint", "test"]),
        ("```sh\nmake -j4\n```\nPeople make mistakes.\n", []),
        ("`cmake build`\n", []),
    ],
)
def test_commands_are_found_in_code_only(text: str, found: list[str]) -> None:
    assert commands("make", text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("`holdfast up`\n", [("up",)]),
        ("```sh\n.venv/bin/holdfast models publish a.onnx --name a # new\n```\n", [("models", "publish", "--name")]),
        ("Run holdfast up\n", []),
        ('```sh\neval "$(.venv/bin/holdfast env)"\n```\n', [("env",)]),
        ("- A list:\n\n  ```sh\n  holdfast check\n  ```\n", [("check",)]),
    ],
)
def test_ways_to_run_holdfast_are_found(text: str, found: list[tuple[str, ...]]) -> None:
    assert invocations(text) == found
