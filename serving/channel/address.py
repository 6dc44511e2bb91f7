"""Where a replica's tensor channel listens: a Unix socket on the same node, TCP across nodes."""

from __future__ import annotations

from typing import NamedTuple


class UnixAddress(NamedTuple):
    """``unix:/path/to.sock``"""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


class TcpAddress(NamedTuple):
    """``tcp:host:port``, with an IPv6 address in brackets: ``tcp:[::1]:7000``"""

    host: str
    port: int

    def __str__(self) -> str:
        return f"tcp:[{self.host}]:{self.port}" if ":" in self.host else f"tcp:{self.host}:{self.port}"


Address = UnixAddress | TcpAddress


def parse_address(text: str) -> Address:
    """The address that ``str(address)`` wrote; raises ``ValueError`` for anything else."""
    scheme, _, rest = text.partition(":")
    if scheme == "unix" and rest.startswith("/"):
        return UnixAddress(rest)
    host, _, port = rest.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if scheme == "tcp" and bare and (bare == host) == (":" not in bare) and port.isdecimal() and int(port) < 65536:
        return TcpAddress(bare, int(port))
    raise ValueError(f"'{text}' is no address of a tensor channel (unix:/path or tcp:host:port)")
