"""The token of those who may change the system: the first line of a file that a setting names.

The token itself is never logged, shown or handed on. Not here: who has to show it (``serving.admin.guard``).
"""

from __future__ import annotations

import logging
import stat
from pathlib import Path
from typing import Final

from serving.settings import Settings, SettingsError

log = logging.getLogger("holdfast")

MIN_CHARACTERS: Final = 16
MAX_BYTES: Final = 4096


def read_token(path: Path) -> bytes:
    """Raises ``SettingsError``, with the setting's name, if the file holds no usable token."""
    try:
        if not path.is_file():  # what isn't one may have no end, or never begin
            raise SettingsError(f"admin_token_file: {path}: {'not a file' if path.exists() else 'no such file'}")
        with path.open("rb") as file:
            lines = file.read(MAX_BYTES + 1).splitlines()
    except OSError as error:
        raise SettingsError(f"admin_token_file: {path}: {error.strerror}") from None
    token = lines[0].strip() if lines else b""
    if not token:
        raise SettingsError(f"admin_token_file: {path}: its first line is empty; the token belongs there")
    if not all(0x21 <= byte <= 0x7E for byte in token):
        raise SettingsError(f"admin_token_file: {path}: a token is made of visible ASCII characters without spaces")
    if not MIN_CHARACTERS <= len(token) < MAX_BYTES:
        raise SettingsError(
            f"admin_token_file: {path}: the token has {len(token)} characters, not {MIN_CHARACTERS} to {MAX_BYTES - 1}"
        )
    return token


def open_to_others(path: Path) -> bool:
    """Whether any user of the machine may read or write the file."""
    try:
        return bool(path.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH))
    except OSError:
        return False


def authorization(settings: Settings) -> dict[str, str]:
    """The header that a command of ours has to send; empty without a token. Raises ``SettingsError``."""
    if settings.admin_token_file is None:
        return {}
    return {"authorization": f"Bearer {read_token(Path(settings.admin_token_file)).decode('ascii')}"}


class TokenFile:
    """The token as it stands in the file now."""

    def __init__(self, path: Path) -> None:
        self._current = b""
        self._path = path
        self._fault: str | None = None

    def get(self) -> bytes:
        """Empty while there is none: then nobody may pass."""
        return self._current

    def read(self) -> None:
        """Look at the file again. Never raises: a gateway answers on, whatever has become of the file."""
        before, fault = self._current, None
        try:
            self._current = read_token(self._path)
        except SettingsError as error:
            self._current, fault = b"", str(error)
        if fault is not None and fault != self._fault:
            log.error("%s; until that is mended, nobody may change the system", fault)
        if fault is None and self._current != before and open_to_others(self._path):
            log.warning("admin_token_file: %s can be read by every user of this machine; chmod 600 it", self._path)
        self._fault = fault
