"""Every setting of Holdfast: frozen, validated once, unknown keys refused, units in the names.

The settings are the ``args`` of the application in ``serve_config.yaml``. ``docs/settings.md`` is made from this
file. Not here: reading the environment after start-up; nothing does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from serving.model_settings import AutoscalingSettings, ModelSettings, Positive, Seconds, UseModel
from serving.places import log_fault, redis_fault, shown_place

LOOPBACK = ("127.0.0.1", "::1", "localhost")

Port = Annotated[int, Meta(ge=1, le=65535)]


class SettingsError(Exception):
    """A setting is unknown, missing or impossible. The text names it."""


class HttpSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The way in: HAProxy in front, and the gateways' own listeners behind it."""

    host: Annotated[str, Meta(description="Address that HAProxy listens on.")] = "127.0.0.1"
    port: Annotated[Port, Meta(description="Port that HAProxy listens on: the one that clients use.")] = 8000
    gateway_host: Annotated[
        str, Meta(description="Address that the gateways listen on; HAProxy and gateways share a node.")
    ] = "127.0.0.1"
    gateway_ports: Annotated[
        tuple[Port, Port],
        Meta(description="First and last port of the range from which every gateway replica takes a free one."),
    ] = (8100, 8107)
    body_max_bytes: Annotated[
        Positive, Meta(description="Largest request body, also after decompression; larger ones are answered 413.")
    ] = 64 << 20
    resend_max_bytes: Annotated[
        Positive,
        Meta(
            description="Largest request that survives the death of its gateway: HAProxy keeps it and sends it to "
            "another one. It copies a buffer of this size for every request, so more costs speed (256 KiB: a third)."
        ),
    ] = 32 << 10
    max_connections: Annotated[Positive, Meta(description="Client connections that HAProxy holds at once.")] = 2048
    idle_timeout_s: Annotated[
        Seconds, Meta(description="How long an idle keep-alive connection, or a stalled request, is kept.")
    ] = 60.0
    drain_timeout_s: Annotated[
        Seconds, Meta(description="How long a gateway that stops may take to finish the requests it has.")
    ] = 30.0


class GatewaySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The gateway replicas."""

    replicas: Annotated[
        int, Meta(ge=1, le=64, description="Gateway replicas; with `autoscaling` those at the start.")
    ] = 2
    autoscaling: AutoscalingSettings | None = None

    @property
    def most_replicas(self) -> int:
        return self.replicas if self.autoscaling is None else self.autoscaling.max_replicas


class ChannelSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The tensor channel between gateways and model replicas."""

    socket_dir: Annotated[
        str | None,
        Meta(
            description="Folder of the Unix sockets; keep it short, a socket's path can't be longer than 107 bytes. "
            "Left out: a folder of its own under the system's temporary folder."
        ),
    ] = None
    tcp_ports: Annotated[
        tuple[Port, Port] | None,
        Meta(
            description="First and last port of the range from which a model replica that isn't on the head node takes "
            "a free one, for a firewall to know. Left out: any port."
        ),
    ] = None
    max_frame_bytes: Annotated[
        Positive, Meta(description="Largest batch, with its answer, that is sent at one go.")
    ] = 128 << 20
    connect_timeout_s: Annotated[Seconds, Meta(description="How long dialling a replica may take.")] = 2.0
    ping_interval_s: Annotated[Seconds, Meta(description="How often a replica is asked whether it is there.")] = 1.0
    ping_timeout_s: Annotated[
        Seconds, Meta(description="A replica that leaves a ping unanswered this long gets no more work.")
    ] = 3.0

    def __post_init__(self) -> None:
        if self.tcp_ports is not None and self.tcp_ports[0] > self.tcp_ports[1]:
            raise ValueError(f"tcp_ports: {self.tcp_ports[0]} is above {self.tcp_ports[1]}")


class CacheSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Cached predictions, for the models whose settings ask for them."""

    max_bytes: Annotated[
        Annotated[int, Meta(ge=1 << 20)], Meta(description="Size of the node's store in `state_dir`; the oldest go.")
    ] = 256 << 20
    redis_url: Annotated[
        Annotated[str, Meta(pattern="^[a-z]+://")] | None,
        Meta(
            description="A Redis that all nodes share, behind the node's own store. Left out: none.",
        ),
    ] = None
    redis_timeout_ms: Annotated[
        Annotated[int, Meta(ge=1, le=10_000)], Meta(description="How long a question to Redis may take.")
    ] = 50


class IncidentSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Requests that failed, were refused for their values, or were answered by a fallback, kept on the node."""

    enabled: Annotated[
        bool, Meta(description="Whether any are kept. Of a model that is `sensitive` none are in any case.")
    ] = True
    max_bytes: Annotated[
        Annotated[int, Meta(ge=1 << 20)], Meta(description="Size of the store in `state_dir`; the oldest go.")
    ] = 64 << 20
    max_number: Annotated[Positive, Meta(description="Incidents that are kept; the oldest go.")] = 10_000
    max_tensors_bytes: Annotated[
        Annotated[int, Meta(ge=0)],
        Meta(
            description="Inputs are kept whole if they have at most so many bytes together, and so are outputs; of "
            "larger ones names, shapes and a hash are."
        ),
    ] = 64 << 10
    rate_max: Annotated[
        float,
        Meta(
            gt=0,
            le=1000,
            description="Incidents of one kind (model, version and failure) that a gateway keeps in a second, on "
            "average; what is more is counted.",
        ),
    ] = 5.0
    shed_share: Annotated[
        float, Meta(ge=0, le=1, description="The share of shed requests that count as incidents.")
    ] = 0.01
    caller_errors: Annotated[
        bool, Meta(description="Whether requests that are wrong themselves (`invalid_request`) are kept, too.")
    ] = False
    redaction: Annotated[
        Annotated[str, Meta(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")] | None,
        Meta(
            description="A Python function, as `package.module:function`, that is given the model's name and its "
            "inputs, or outputs, as a dict of numpy arrays, and gives the dict of what may be kept. "
            "Left out: all of it."
        ),
    ] = None


class TracingSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Spans of requests, sent to an OpenTelemetry collector."""

    endpoint: Annotated[
        str,
        Meta(
            pattern="^https?://[^/]+",
            description="The collector, by OTLP over HTTP, as `http://127.0.0.1:4318`. `/v1/traces` is added if there "
            "is no path. Headers and certificates are taken from OpenTelemetry's own environment variables "
            "(`OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_EXPORTER_OTLP_CERTIFICATE`).",
        ),
    ]
    sample_ratio: Annotated[
        float,
        Meta(
            ge=0,
            le=1,
            description="The share of requests that are traced, of those whose caller says nothing of it. If the "
            "caller sends a `traceparent`, its sampled flag counts.",
        ),
    ] = 0.01
    max_per_s: Annotated[
        float,
        Meta(
            gt=0,
            le=10_000,
            description="So many requests are traced in a second at most, in each gateway, whoever wants them to be. "
            "More tell little more, and the spans of one cost about as much time as four requests do.",
        ),
    ] = 20.0
    service_name: Annotated[
        Annotated[str, Meta(min_length=1, max_length=128)], Meta(description="What this Holdfast is called in traces.")
    ] = "holdfast"
    timeout_s: Annotated[
        Seconds, Meta(description="How long the collector may take; then what was sent is dropped.")
    ] = 5.0


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All of it."""

    state_dir: Annotated[str, Meta(description="Folder for everything that Holdfast keeps on this node.")] = ".holdfast"
    store: Annotated[
        str | None, Meta(description="Folder of the model registry. Left out: `models` in `state_dir`.")
    ] = None
    ray_address: Annotated[
        str | None,
        Meta(
            description="The Ray cluster that `holdfast up` joins, which it has to do on the cluster's head node: "
            "`HOST:PORT` of its GCS, or `auto` for the one that runs on this machine (see `holdfast node`). Left out: "
            "a Ray of its own on this machine. `serve run` and `serve deploy` know their cluster without it."
        ),
    ] = None
    http: HttpSettings = HttpSettings()
    gateway: GatewaySettings = GatewaySettings()
    channel: ChannelSettings = ChannelSettings()
    cache: CacheSettings = CacheSettings()
    incidents: IncidentSettings = IncidentSettings()
    tracing: TracingSettings | None = None
    models: Annotated[
        tuple[ModelSettings, ...],
        Meta(description="The models that are served. Left out: every model of the registry, in its highest version."),
    ] = ()
    admin: Annotated[
        bool | None,
        Meta(
            description="Whether the system may be changed over HTTP: versions loaded and unloaded, gateways "
            "restarted, rollouts commanded. Left out: if there is an `admin_token_file`, or if only this machine can "
            "reach `http.host` and `http.gateway_host`. `true` where others can needs the token."
        ),
    ] = None
    admin_token_file: Annotated[
        str | None,
        Meta(
            description="File whose first line is a token of at least 16 characters. Whoever changes the system over "
            "HTTP has to send it, as `Authorization: Bearer <token>`. No other user should be able to read the file "
            "(`chmod 600`). A new token counts within a second. Left out: nobody is asked who they are."
        ),
    ] = None
    event_log: Annotated[
        str | None,
        Meta(
            description="Where the event log of rollouts is: the path of an SQLite file, or `postgresql://...` (needs "
            "`holdfast[postgres]`). Every running Holdfast needs one of its own. Left out: `events.db` in `state_dir`."
        ),
    ] = None
    faults: Annotated[
        bool,
        Meta(
            description="Whether `/v2/holdfast/faults` may make replicas fail on purpose. For tests; without an "
            "`admin_token_file` anybody may, so `true` where others than this machine can reach `http.host` or "
            "`http.gateway_host` needs one."
        ),
    ] = False
    busy_poll_us: Annotated[
        int,
        Meta(
            ge=0,
            le=10_000,
            description="How long, in microseconds, a gateway or replica that serves one request at a time stays awake "
            "for the next event, if such events usually come within that time: lower latency for some CPU time (0: "
            "never).",
        ),
    ] = 300
    log_level: Annotated[
        str, Meta(pattern="^(DEBUG|INFO|WARNING|ERROR)$", description="DEBUG, INFO, WARNING or ERROR.")
    ] = "INFO"
    log_format: Annotated[
        str,
        Meta(
            pattern="^(text|json)$",
            description="text or json: how the log's lines look, of all processes. Ray's own logs stay as they are.",
        ),
    ] = "text"
    access_log: Annotated[
        float,
        Meta(
            ge=0,
            le=1,
            description="The share of good requests that leave a line in the log. Failed and degraded ones leave one "
            "anyway, but of one kind (model, version and failure) only about one in a second.",
        ),
    ] = 0.0

    def __post_init__(self) -> None:
        self._check_address()
        names = [model.name for model in self.models]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"models: '{name}' stands there twice")
        first, last = self.http.gateway_ports
        if first > last:
            raise ValueError(f"http.gateway_ports: {first} is above {last}")
        if last - first + 1 < self.gateway.most_replicas:
            raise ValueError(
                f"gateway.replicas: {self.gateway.most_replicas} replicas need as many ports; "
                f"http.gateway_ports {first}-{last} has {last - first + 1}"
            )
        if first <= self.http.port <= last:
            raise ValueError(f"http.port: {self.http.port} is one of http.gateway_ports {first}-{last}")
        self._check_places()
        self._check_strangers()
        for index, model in enumerate(self.models):
            if model.max_batch_bytes > self.channel.max_frame_bytes // 2:  # a frame holds more than the inputs
                raise ValueError(
                    f"models[{index}].max_batch_bytes: {model.max_batch_bytes} is more than half of "
                    f"channel.max_frame_bytes {self.channel.max_frame_bytes}"
                )
            for place, fallback in enumerate(model.fallback):
                if isinstance(fallback, UseModel):
                    self._check_chain(model, fallback.model, f"models[{index}].fallback[{place}].model")
            if model.shadow is not None and (shadow := model.shadow.model) is not None:
                self._check_shadow(model, shadow, f"models[{index}].shadow.model")

    def _check_address(self) -> None:
        if self.ray_address not in (None, "auto"):
            host, _, port = self.ray_address.rpartition(":")
            if not host or not port.isdecimal() or not 0 < int(port) < 65536:
                raise ValueError(f"ray_address: '{self.ray_address}' is neither HOST:PORT nor auto")

    def _check_places(self) -> None:
        """The texts repeat nothing of them: there may be a password in it."""
        if self.event_log is not None and (fault := log_fault(self.event_log)) is not None:
            raise ValueError(f"event_log: {fault}")
        if self.cache.redis_url is not None and (fault := redis_fault(self.cache.redis_url)) is not None:
            raise ValueError(f"cache.redis_url: {fault}")

    def _check_strangers(self) -> None:
        """Refuse what only those may do who have shown who they are, where strangers can ask for it."""
        for wanted, key, what in (
            (self.admin, "admin", "changes need"),
            (self.faults, "faults", "making replicas fail needs"),
        ):
            if wanted and self.public and self.admin_token_file is None:
                raise ValueError(
                    f"{key}: others than this machine can reach http.host {self.http.host} or http.gateway_host "
                    f"{self.http.gateway_host}, so {what} a token: set admin_token_file"
                )

    def _check_shadow(self, model: ModelSettings, target: str, key: str) -> None:
        if self.model(target) is None:
            raise ValueError(f"{key}: '{target}' isn't one of models {[known.name for known in self.models]}")
        if target == model.name:
            raise ValueError(f"{key}: '{target}' is the model itself; another version of it goes into shadow.version")

    def _check_chain(self, model: ModelSettings, target: str, key: str) -> None:
        """Refuse a fallback to a model that isn't there, or from which chains lead back to where they began."""
        if self.model(target) is None:
            raise ValueError(f"{key}: '{target}' isn't one of models {[known.name for known in self.models]}")
        ahead, seen = [target], set[str]()
        while ahead:
            name = ahead.pop()
            if name == model.name:
                way = "itself" if target == model.name else f"'{target}', whose chain leads back to '{model.name}'"
                raise ValueError(f"{key}: '{model.name}' falls back to {way}")
            if name not in seen and (found := self.model(name)) is not None:
                seen.add(name)
                ahead += [entry.model for entry in found.fallback if isinstance(entry, UseModel)]

    @property
    def store_dir(self) -> Path:
        return Path(self.store) if self.store is not None else Path(self.state_dir) / "models"

    @property
    def event_log_place(self) -> str:
        """A path or a URL."""
        return self.event_log if self.event_log is not None else str(Path(self.state_dir) / "events.db")

    @property
    def event_log_shown(self) -> str:
        """The same without a password."""
        return shown_place(self.event_log_place)

    @property
    def public(self) -> bool:
        """Whether others than this machine can reach HAProxy, or a gateway past it."""
        return self.http.host not in LOOPBACK or self.http.gateway_host not in LOOPBACK

    @property
    def admin_allowed(self) -> bool:
        """Whether the system may be changed over HTTP, by those who have the token if there is one."""
        if self.admin is not None:
            return self.admin
        return self.admin_token_file is not None or not self.public

    def model(self, name: str) -> ModelSettings | None:
        """The settings of a model that they name, else None."""
        return next((model for model in self.models if model.name == name), None)


def parse_settings(raw: Any) -> Settings:
    """The settings that plain data (as YAML gives it) says; raises ``SettingsError``."""
    try:
        return msgspec.convert(raw if raw is not None else {}, Settings)
    except msgspec.ValidationError as error:
        text = str(error).replace("Object contains unknown field", "unknown setting")
        what, _, where = text.partition(" - at `$")
        place = where.rstrip("`").lstrip(".")
        raise SettingsError(f"{place}: {what}" if place else what) from None


def absolute(settings: Settings, base: Path) -> Settings:
    """The same settings with every path absolute, those that aren't taken from ``base``."""
    sockets, token = settings.channel.socket_dir, settings.admin_token_file
    return msgspec.structs.replace(
        settings,
        channel=msgspec.structs.replace(
            settings.channel, socket_dir=None if sockets is None else str((base / sockets).resolve())
        ),
        state_dir=str((base / settings.state_dir).resolve()),
        store=str((base / settings.store_dir).resolve()),
        event_log=_absolute_log(settings.event_log_place, base),
        admin_token_file=None if token is None else str((base / token).absolute()),  # a link may lead elsewhere later
    )


def _absolute_log(place: str, base: Path) -> str:
    return place if "://" in place else str((base / place).resolve())
