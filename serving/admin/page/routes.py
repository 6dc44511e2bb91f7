"""Gives the live page's files. A ``Door``: it knows no secret and changes nothing, so nobody is asked who they are.

What the page shows comes from ``serving.live``, what it commands goes to ``serving.admin.routes``. Each file is read
and packed once, at the start. Not here: the files themselves (``assets/``).
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Collection, Iterator
from importlib import resources
from typing import Final, NamedTuple

from serving.ingress.http import Header, HttpRequest, HttpResponse
from serving.ingress.routes import GET, Target
from serving.protocol.compression import choose_encoding

PAGE: Final = "/admin"
OF_MODEL: Final = "/admin/models/"
NAME_MAX_CHARACTERS: Final = 256
INDEX: Final = "index.html"
THE_PAGE: Final = Target("page", GET, INDEX)
TYPES: Final = {
    "html": b"text/html; charset=utf-8",
    "css": b"text/css; charset=utf-8",
    "js": b"text/javascript; charset=utf-8",
    "svg": b"image/svg+xml",
}

POLICY: Final = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    b"form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
"""Nothing but our own files and our own API, no script or style in the markup, in nobody's frame; and Chromium refuses
to make markup of any string."""
_HEADERS: Final[list[Header]] = [
    (b"content-security-policy", POLICY),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-cache"),  # kept, but asked for again: a new Holdfast has a new page
    (b"vary", b"accept-encoding"),
]
_GZIP: Final = 31


class Asset(NamedTuple):
    """A file as it is sent, plain and packed."""

    type: bytes
    plain: bytes
    packed: bytes
    digest: str

    def etag(self, *, packed: bool) -> bytes:
        return f'"{self.digest}{"-gzip" if packed else ""}"'.encode()


class PageRoutes:
    """The page at ``/admin``, the same for each model at ``/admin/models/NAME``, and its files beside it.

    A target's ``model`` is the name of the file.
    """

    endpoints: Collection[str] = (THE_PAGE.endpoint,)

    def __init__(self) -> None:
        self._assets = dict(_read())

    def find(self, path: str) -> Target | None:
        name = asset_name(path)
        return THE_PAGE._replace(model=name) if name is not None and name in self._assets else None

    async def answer(self, request: HttpRequest, target: Target) -> HttpResponse:
        asset = self._assets[target.model]
        accepted = request.headers.get(b"accept-encoding")
        packed = accepted is not None and choose_encoding(accepted.decode("latin-1")) == "gzip"
        etag = asset.etag(packed=packed)
        headers = [(b"content-type", asset.type), (b"etag", etag), *_HEADERS]
        if _known(request.headers.get(b"if-none-match", b""), etag):
            return HttpResponse(304, headers, b"")
        if packed:
            headers.append((b"content-encoding", b"gzip"))
        return HttpResponse(200, headers, asset.packed if packed else asset.plain)


def asset_name(path: str) -> str | None:
    """Which file a path asks for; None if it isn't the page's at all. Whether there is one, only the list knows."""
    if path in (PAGE, f"{PAGE}/"):
        return INDEX
    if path.startswith(OF_MODEL):
        named = 0 < len(path) - len(OF_MODEL) <= NAME_MAX_CHARACTERS
        return INDEX if named else None  # whether there is such a model, the page finds out
    return path.removeprefix(f"{PAGE}/") if path.startswith(f"{PAGE}/") else None


def _known(if_none_match: bytes, etag: bytes) -> bool:
    tags = [tag.strip().removeprefix(b"W/") for tag in if_none_match.split(b",")]
    return etag in tags or b"*" in tags


def _read() -> Iterator[tuple[str, Asset]]:
    for file in resources.files("serving.admin.page").joinpath("assets").iterdir():
        kind = TYPES.get(file.name.rpartition(".")[2])
        if kind is not None:
            plain = file.read_bytes()
            packed = zlib.compress(plain, level=9, wbits=_GZIP)
            yield file.name, Asset(kind, plain, packed, hashlib.sha256(plain).hexdigest()[:32])
