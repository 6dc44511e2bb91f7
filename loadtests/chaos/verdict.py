"""What becomes of one promise."""

from typing import NamedTuple


class Verdict(NamedTuple):
    promise: str
    held: bool
    seen: str
