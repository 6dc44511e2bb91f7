"""HAProxy's configuration, from the settings. Pure.

It is static: one ``server`` line for each port that a gateway may take, health-checked, so that gateways come and go
without a reload. The check also asks whose gateway it is: where another Holdfast shares the range, each uses only its
own. A gateway that answers late is soon left out, as long as there is another; where a whole machine is
too busy, those who answer late are asked all the same. A request is sent to another gateway if the first one dies
before it answered, as long as it fits HAProxy's buffer. What HAProxy answers by itself is JSON like everything else,
but for bytes that it can't read as HTTP: its 400 to those can't be changed. Not here: running it, and the socket that
it is lent (``serving.ingress.keeper``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from serving.settings import HttpSettings

LISTENER: Final = "HOLDFAST_LISTENER"
"""The environment variable with the file descriptor that clients connect to."""
ACCEPTING_PATH: Final = "/v2/holdfast/accepting"
PATIENCE_S: Final = 5
"""A gateway that takes longer for a check isn't asked any more, also when there is no other."""
BUFFER_OVERHEAD_BYTES: Final = 16_384
"""Room for a request's headers beside its body."""

_TEMPLATE: Final = """\
# Written by Holdfast at every start; changes are lost.
global
    maxconn {max_connections}
    nbthread 1
    tune.bufsize {bufsize}
    pidfile {pidfile}
    hard-stop-after {drain_s}s

defaults
    mode http
    timeout connect 1s
    timeout client {idle_s}s
    timeout client-fin 5s
    timeout http-request {idle_s}s
    timeout http-keep-alive {idle_s}s
    timeout queue 5s
    timeout server 86400s
    timeout tunnel 1h
    retries {retries}
    option redispatch 1
    option http-buffer-request
    option abortonclose
    option http-keep-alive
    retry-on conn-failure empty-response
    http-reuse always

frontend clients
    bind fd@${{{listener}}}
    use_backend gateways_late if {{ nbsrv(gateways) eq 0 }}
    default_backend gateways
    http-error status 408 content-type application/json string '{{"error":"the request did not arrive in time"}}'

backend gateways
{checked}
    default-server check inter 500ms fastinter 100ms downinter 200ms rise 1 fall 2
    default-server observe layer4 error-limit 1 on-error mark-down
{errors}
{servers}

backend gateways_late
{checked}
    timeout check {patience_s}s
    default-server check inter 1s rise 1 fall 3
{errors}
{servers}
"""

_CHECKED: Final = f"""\
    balance leastconn
    option httpchk
    http-check send meth GET uri {ACCEPTING_PATH}
    http-check expect status 200
    http-check expect string '{{said}}'"""

_ERRORS: Final = {
    502: "the gateway died while it had the request",
    503: "no gateway can take the request now",
    504: "the gateway didn't answer in time",
}


def accepting_body(accepting: bool, system: str) -> bytes:
    """What a gateway of the Holdfast with the mark ``system`` answers to a check."""
    return b'{"accepting":%b,%b}' % (b"true" if accepting else b"false", _whose(system).encode())


def _whose(system: str) -> str:
    return f'"system":"{system}"'


def render_config(http: HttpSettings, *, pidfile: Path, system: str) -> str:
    """The configuration file's text; only gateways with the mark ``system`` get requests."""
    first, last = http.gateway_ports
    servers = [f"    server g{port} {http.gateway_host}:{port}" for port in range(first, last + 1)]
    return _TEMPLATE.format(
        listener=LISTENER,
        max_connections=http.max_connections,
        bufsize=http.resend_max_bytes + BUFFER_OVERHEAD_BYTES,
        pidfile=pidfile,
        idle_s=max(1, round(http.idle_timeout_s)),
        drain_s=max(1, round(http.drain_timeout_s)),
        retries=len(servers),
        patience_s=PATIENCE_S,
        checked=_CHECKED.format(said=_whose(system)),
        errors="\n".join(f"    http-error status {status} {_json(text)}" for status, text in _ERRORS.items()),
        servers="\n".join(servers),
    )


def _json(text: str) -> str:
    """An error body as HAProxy wants it quoted, and when to try again."""
    return f'content-type application/json string "{{\\"error\\":\\"{text}\\"}}" hdr retry-after 1'
