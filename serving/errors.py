"""The whole taxonomy of what can go wrong with a request, in one place.

Each class has a ``code``: a stable word for metrics, logs and the tensor channel. Not here: HTTP
status codes (``serving.protocol.status`` alone knows them), and errors of model versions (``models.errors``).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from models.inference import Tensors


class RequestError(Exception):
    """Base of every way a request can end without a good answer. The text is shown to the caller."""

    code: ClassVar[str] = "internal"
    retry_after_s: float = 1.0
    """When another try may succeed, of those errors that may pass."""

    @property
    def message(self) -> str:
        return str(self.args[0]) if self.args else self.code

    @property
    def told(self) -> str:
        """What another error, which its caller will read, may quote of this one."""
        return self.message


# What the caller got wrong. Never counts against a model, never falls back, never reaches a batch.


class CallerError(RequestError):
    """The request itself is at fault; sending it again unchanged can't help."""


class InvalidRequest(CallerError):
    """Malformed, or not what the model's signature asks for. The text names the field."""

    code = "invalid_request"


class BadQuality(CallerError):
    """It fits the signature, but a value isn't one that the version was made for. The text names the feature."""

    code = "input_quality"


class UnknownRoute(CallerError):
    code = "unknown_route"


class ModelNotFound(CallerError):
    """No such model, or no such version of it, is known here."""

    code = "model_not_found"


class MethodNotAllowed(CallerError):
    code = "method_not_allowed"

    def __init__(self, message: str, *, allow: str) -> None:
        super().__init__(message)
        self.allow = allow


class NotAuthorized(CallerError):
    """What was asked changes the system, and the token for that was missing or wrong."""

    code = "not_authorized"


class ForeignOrigin(CallerError):
    """What was asked changes the system, and a web page of somewhere else has asked it."""

    code = "foreign_origin"


class RolloutNotFound(CallerError):
    """The model never had a rollout."""

    code = "rollout_not_found"


class IncidentNotFound(CallerError):
    """No such incident is kept, or not any more."""

    code = "incident_not_found"


class PayloadTooLarge(CallerError):
    code = "payload_too_large"


class UnsupportedEncoding(CallerError):
    code = "unsupported_encoding"


# What the system decided without asking a model.


class DeadlineExceeded(RequestError):
    """The deadline passed before a good answer was there."""

    code = "deadline_exceeded"


class Overloaded(RequestError):
    """Shed: it wouldn't have been answered in time."""

    code = "overloaded"

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class LoadFailed(RequestError):
    """A version couldn't be brought up. The text says why; what is served stays as it was."""

    code = "load_failed"


class RolloutRefused(RequestError):
    """Not as the rollout stands now. The text says what to do."""

    code = "rollout_refused"


class BreakerNotOpen(RequestError):
    """A breaker was to be closed that is closed."""

    code = "breaker_not_open"


class RolloutsUnavailable(RequestError):
    """The control plane doesn't answer, or can't write down what it decides. The text says why."""

    code = "rollouts_unavailable"


class IncidentsUnavailable(RequestError):
    """The store of incidents can't be read now. The text says why."""

    code = "incidents_unavailable"


class Internal(RequestError):
    """A defect of ours. The details go to the log, not to the caller."""

    code = "internal"

    @property
    def told(self) -> str:
        return "internal error"


# What one attempt at one version ran into.


class AttemptError(RequestError):
    """One attempt failed; another replica, or another version, may do better."""


class ReplicaUnavailable(AttemptError):
    """No replica of the version takes work now; nothing was sent."""

    code = "replica_unavailable"


class CircuitOpen(AttemptError):
    """The version's breaker lets nothing through now; nothing was sent."""

    code = "circuit_open"

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class AttemptTimeout(AttemptError):
    """The attempt took its share of the request's time; there is some left for another one."""

    code = "attempt_timeout"


class QueueTimeout(AttemptError):
    """The attempt's time was over while others were served before it; nothing was sent."""

    code = "queue_timeout"


class ReplicaLost(AttemptError):
    """The replica died, or its connection broke, while it had the work."""

    code = "replica_lost"


class ModelFailed(AttemptError):
    """The model raised on this input."""

    code = "model_failed"


class InvalidAnswer(AttemptError):
    """The model answered, but not as its signature says, or with numbers that aren't finite."""

    code = "invalid_answer"

    def __init__(self, message: str, *, outputs: Tensors = ()) -> None:
        """``outputs`` is the answer, if there is one to look at."""
        super().__init__(message)
        self.outputs = outputs


# What is left when everything was tried.


class NoAnswer(RequestError):
    """The version failed, and so did every fallback of the model. The text says why, one by one."""

    code = "no_answer"

    def __init__(self, message: str, *, retry_after_s: float = RequestError.retry_after_s) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


def error_class(code: str, *, among: Iterable[type[RequestError]]) -> type[RequestError]:
    """The class whose code another process told us; ``Internal`` for a code that none of ``among`` has."""
    return next((error for error in among if error.code == code), Internal)
