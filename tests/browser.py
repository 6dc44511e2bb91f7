"""A real Chromium without a window, driven by the DevTools protocol: what a person does, and what they see and hear.

It needs the machine's own `chromium` and downloads nothing. Not here: what pages should look like (the tests say).
"""

from __future__ import annotations

import base64
import itertools
import json
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from websockets.sync.client import ClientConnection, connect

START_S: Final = 60.0
ANSWER_S: Final = 30.0
SEEN_S: Final = 20.0
LOOK_EVERY_S: Final = 0.05
KEYS: Final = {"Tab": 9, "Enter": 13, "Escape": 27, "ArrowLeft": 37, "ArrowRight": 39}
FLAGS: Final = (
    "--headless=new",
    "--no-sandbox",  # tests may run as root, and show only pages of ours
    "--remote-debugging-port=0",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--hide-scrollbars",
)


class Tab:
    """A page. ``problems`` are errors in its console, exceptions, and what its policy forbade."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._session: str | None = None
        self.problems: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Accessibility"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        self._socket.send(json.dumps(message))
        until = time.monotonic() + ANSWER_S
        while True:
            heard = json.loads(self._socket.recv(timeout=max(until - time.monotonic(), 0.1)))
            if heard.get("id") == number:
                assert "error" not in heard, (method, params, heard)
                result: dict[str, Any] = heard["result"]
                return result
            self._note(heard)

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete'")

    def look(self, *, width: int = 1280, height: int = 900, dark: bool = False, still: bool = True) -> None:
        """As on a screen of this size, of a person who likes it this way."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        features = [
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
            {"name": "prefers-reduced-motion", "value": "reduce" if still else "no-preference"},
        ]
        self.call("Emulation.setEmulatedMedia", features=features)

    def get(self, expression: str) -> Any:
        """The value of JavaScript that runs in the page."""
        told = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in told, (expression, told["exceptionDetails"])
        return told["result"].get("value")

    def until(self, expression: str, *, within_s: float = SEEN_S) -> Any:
        """Its value, as soon as that is true."""
        end = time.monotonic() + within_s
        while not (value := self.get(expression)):
            assert time.monotonic() < end, f"not within {within_s} s: {expression}\nthe page says:\n{self.text()}"
            time.sleep(LOOK_EVERY_S)
        return value

    def text(self, selector: str = "body") -> str:
        return str(self.get(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''"))

    def until_says(self, words: str, selector: str = "body", *, within_s: float = SEEN_S) -> None:
        found = f"(document.querySelector({json.dumps(selector)})?.innerText ?? '').includes({json.dumps(words)})"
        self.until(found, within_s=within_s)

    def press(self, key: str, *, shift: bool = False) -> None:
        code = KEYS[key]
        pressed = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": 8 if shift else 0}
        text = {"text": "\r"} if key == "Enter" else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", **pressed, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **pressed)

    def write(self, text: str) -> None:
        """Into what has the focus."""
        self.call("Input.insertText", text=text)

    def click(self, selector: str, saying: str = "") -> None:
        """With a mouse, in the middle of the first such element whose text has these words."""
        found = (
            f"[...document.querySelectorAll({json.dumps(selector)})]"
            f".find((node) => node.innerText.includes({json.dumps(saying)}) && node.checkVisibility())"
        )
        self.until(f"{found} !== undefined")
        where = self.get(
            f"(() => {{ const node = {found}; node.scrollIntoView({{block: 'center'}});"
            "const box = node.getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        at = {"x": where[0], "y": where[1], "button": "left", "clickCount": 1}
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=at["x"], y=at["y"])
        self.call("Input.dispatchMouseEvent", type="mousePressed", **at)
        self.call("Input.dispatchMouseEvent", type="mouseReleased", **at)

    def heard(self) -> list[tuple[str, str]]:
        """Role and name of everything that a screen reader is told, in order."""
        nodes = self.call("Accessibility.getFullAXTree")["nodes"]
        return [
            (node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node.get("ignored")
        ]

    def picture(self, path: Path, *, whole: bool = True) -> None:
        told = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(told["data"]))

    def _note(self, heard: dict[str, Any]) -> None:
        params = heard.get("params", {})
        match heard.get("method"):
            case "Runtime.exceptionThrown":
                details = params["exceptionDetails"]
                self.problems.append(details.get("exception", {}).get("description", details["text"]))
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning"):
                self.problems.append(" ".join(str(arg.get("value")) for arg in params["args"]))
            case "Log.entryAdded" if params["entry"]["level"] == "error":
                self.problems.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")


@contextmanager
def browser() -> Iterator[Tab]:
    """One Chromium with one tab, and nothing left of it afterwards."""
    chromium = shutil.which("chromium")
    assert chromium is not None, "these tests need Debian's chromium: apt-get install chromium"
    folder = Path(tempfile.mkdtemp(prefix="hf-chromium-"))
    process = subprocess.Popen(
        [chromium, *FLAGS, f"--user-data-dir={folder}", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        with connect(_address(folder, process), max_size=64 << 20, compression=None) as socket:
            yield Tab(socket)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(START_S)
        shutil.rmtree(folder, ignore_errors=True)


def _address(folder: Path, process: subprocess.Popen[bytes]) -> str:
    """Chromium writes where it listens into its folder."""
    told = folder / "DevToolsActivePort"
    end = time.monotonic() + START_S
    while time.monotonic() < end and process.poll() is None:
        lines = told.read_text().split() if told.exists() else []
        if len(lines) == 2:
            return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
        time.sleep(LOOK_EVERY_S)
    raise AssertionError(f"Chromium didn't start ({process.poll()})")
