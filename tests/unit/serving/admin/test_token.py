"""The token's file: what is one, what is said of one that isn't, and what becomes of it while Holdfast runs."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from serving.admin.token import MAX_BYTES, MIN_CHARACTERS, TokenFile, authorization, open_to_others, read_token
from serving.settings import Settings, SettingsError

TOKEN = b"0123456789abcdef"


def written(folder: Path, content: bytes, mode: int = 0o600) -> Path:
    path = folder / "token"
    path.write_bytes(content)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("content", [TOKEN, TOKEN + b"\n", b"  " + TOKEN + b" \r\nwhatever follows\n"])
def test_it_is_the_first_line(tmp_path: Path, content: bytes) -> None:
    assert read_token(written(tmp_path, content)) == TOKEN


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "its first line is empty"),
        (b"\n" + TOKEN, "its first line is empty"),
        (b"   \n", "its first line is empty"),
        (TOKEN[:-1], f"the token has {MIN_CHARACTERS - 1} characters, not {MIN_CHARACTERS} to {MAX_BYTES - 1}"),
        (b"x" * MAX_BYTES, f"the token has {MAX_BYTES} characters"),
        (b"two words of sixteen", "visible ASCII characters without spaces"),
        (b"\xff" * 20, "visible ASCII characters without spaces"),
        (b"\0" * 20, "visible ASCII characters without spaces"),
    ],
)
def test_what_is_none_is_told_with_the_setting_and_without_its_text(tmp_path: Path, content: bytes, said: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(SettingsError) as caught:
        read_token(path)
    text = str(caught.value)
    assert text.startswith(f"admin_token_file: {path}: ")
    assert said in text
    assert "\n" not in text
    assert not content.strip() or content.strip().decode("latin-1") not in text


def test_what_is_no_file_is_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for a writer
    for path, said in ((tmp_path / "pipe", "not a file"), (tmp_path, "not a file"), (tmp_path / "x", "no such file")):
        with pytest.raises(SettingsError, match=f"^admin_token_file: {path}: {said}$"):
            read_token(path)


@pytest.mark.parametrize(("mode", "others"), [(0o600, False), (0o640, False), (0o604, True), (0o602, True)])
def test_whoever_else_may_read_it_is_noticed(tmp_path: Path, mode: int, others: bool) -> None:
    assert open_to_others(written(tmp_path, TOKEN, mode)) == others
    assert not open_to_others(tmp_path / "nothing")


def test_our_own_commands_send_it(tmp_path: Path) -> None:
    path = written(tmp_path, TOKEN)
    assert authorization(Settings(admin_token_file=str(path))) == {"authorization": f"Bearer {TOKEN.decode()}"}
    assert authorization(Settings()) == {}
    path.unlink()
    with pytest.raises(SettingsError, match="no such file"):
        authorization(Settings(admin_token_file=str(path)))


def test_a_running_gateway_follows_the_file_and_says_once_what_is_wrong(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = TokenFile(tmp_path / "token")
    assert file.get() == b""
    with caplog.at_level(logging.INFO, "holdfast"):
        for content, mode, token, said in (
            (None, 0, b"", "no such file"),
            (TOKEN, 0o600, TOKEN, ""),
            (TOKEN[::-1], 0o604, TOKEN[::-1], "can be read by every user"),
            (b"short", 0o600, b"", "the token has 5 characters"),
            (TOKEN, 0o600, TOKEN, ""),
        ):
            if content is not None:
                written(tmp_path, content, mode)
            caplog.clear()
            for _ in range(3):
                file.read()
                assert file.get() == token
            assert [said in record.message for record in caplog.records] == [True] * bool(said)
            assert not any(TOKEN.decode() in record.message for record in caplog.records)
