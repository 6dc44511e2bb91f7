"""SQLite's write-ahead log, as far as one must know it to tear its tail off. Pure.

Layout after https://www.sqlite.org/fileformat2.html#the_write_ahead_log: a header of 32 bytes, then frames of 24 bytes
and a page; a frame is of this log if its salts are those of the header, and ends a commit if it says how large the
database is then.
"""

import struct
from typing import Final

_HEADER: Final = struct.Struct(">8I")
_FRAME: Final = struct.Struct(">6I")


def last_commit(raw: bytes) -> tuple[int, int]:
    """Where the last commit begins and ends, in bytes; the same twice if there is none."""
    if len(raw) < _HEADER.size:
        return 0, 0
    header = _HEADER.unpack_from(raw)
    page, salts = header[2], header[4:6]
    begin = end = at = _HEADER.size
    while at + _FRAME.size + page <= len(raw):
        frame = _FRAME.unpack_from(raw, at)
        if frame[2:4] != salts:
            break
        at += _FRAME.size + page
        if frame[1]:
            begin, end = end, at
    return begin, end
