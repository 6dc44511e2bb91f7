"""HTTP/1.1 over plain sockets, for greenlets: one request at a time on a kept connection.

Nothing is sent twice behind our back, as cleverer clients do: each error here is one that a client would have seen.
With gevent's sockets in place (`locust` does that) it waits without holding anyone up.
"""

import contextlib
import socket
import time
from collections.abc import Callable
from typing import Final

import httptools

from loadtests.resilience.client import NoReply, Reply

_CHUNK: Final = 1 << 16
_SIP: Final = 64
"""A slow reader takes so many bytes at a time."""


class Connection:
    """To one address; opened when it is needed, and again after it was closed."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._socket: socket.socket | None = None

    def exchange(self, request: bytes, *, timeout_s: float, sip_s: float = 0.0) -> Reply:
        """The answer; `sip_s` is the pause of a slow reader between two sips. Raises `NoReply`."""
        give_up = time.monotonic() + timeout_s
        try:
            opened = self._open(timeout_s, slow=bool(sip_s))
            opened.sendall(request)
            answer = _Answer()
            while not answer.whole:
                if (left := give_up - time.monotonic()) <= 0:
                    raise TimeoutError
                opened.settimeout(left)
                data = opened.recv(_SIP if sip_s else _CHUNK)
                if not data:
                    raise ConnectionResetError("closed before the answer")
                answer.feed(data)
                if sip_s:
                    time.sleep(sip_s)
        except TimeoutError:
            self.close()
            raise NoReply(f"no answer within {timeout_s:g} s") from None
        except (OSError, httptools.HttpParserError) as error:
            self.close()
            raise NoReply(str(error) or type(error).__name__) from None
        except BaseException:  # a greenlet that is ended: the connection owes an answer
            self.close()
            raise
        if not answer.keep:
            self.close()
        return answer.reply()

    def abandon(self, request: bytes, *, after_s: float) -> bool:
        """Send it and go away, whether it is answered or not. Whether an answer had begun. Raises `NoReply`."""
        try:
            opened = self._open(5.0, slow=False)
            opened.sendall(request)
            opened.settimeout(after_s)
            try:
                return bool(opened.recv(_CHUNK))
            except TimeoutError:
                return False
        except OSError as error:
            raise NoReply(str(error) or type(error).__name__) from None
        finally:
            self.close()

    def close(self) -> None:
        opened, self._socket = self._socket, None
        if opened is not None:
            with contextlib.suppress(OSError):
                opened.close()

    def _open(self, timeout_s: float, *, slow: bool) -> socket.socket:
        if self._socket is not None and not _is_open(self._socket):
            self.close()
        if self._socket is None:
            opened = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            try:
                opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if slow:
                    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # the kernel makes it its least
                opened.settimeout(timeout_s)
                opened.connect(self._address)
            except BaseException:
                opened.close()
                raise
            self._socket = opened
        return self._socket


def _is_open(opened: socket.socket) -> bool:
    """Whether the other end still keeps it: an end that it has sent would be there to be read."""
    opened.settimeout(0)
    try:
        opened.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False  # closed, or bytes that nobody asked for


class _Answer:
    """What has come of one answer; httptools calls the methods."""

    def __init__(self) -> None:
        self.whole = False
        self.keep = False
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self._parser = httptools.HttpResponseParser(self)
        self.feed: Callable[[bytes], None] = self._parser.feed_data

    def reply(self) -> Reply:
        return Reply(self._parser.get_status_code(), self._headers, b"".join(self._body))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        self.whole = True
        self.keep = self._parser.should_keep_alive()
