"""What promtool says of the files in `deploy/prometheus`: whether they are right, and whether the rules' tests hold."""

import asyncio
from collections.abc import Sequence

from loadtests.alerts import files
from loadtests.alerts.prometheus import program
from loadtests.resilience.errors import RunError


async def checked() -> list[str]:
    """A line for each thing that holds. Raises `RunError` with promtool's words for the first that doesn't."""
    config = files.PROMETHEUS / "prometheus.yml"
    said = [await _promtool(["check", "config", str(config)], "the example configuration and the rules are valid")]
    tests = files.rule_tests()
    words = ["test", "rules", *map(str, tests)]
    said.append(await _promtool(words, f"the rules' tests hold, in {len(tests)} files"))
    return said


async def _promtool(words: Sequence[str], what: str) -> str:
    process = await asyncio.create_subprocess_exec(
        program("promtool"), *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await process.communicate()
    if process.returncode != 0:
        raise RunError(f"not so: {what}\n{said.decode(errors='replace')}")
    return what
