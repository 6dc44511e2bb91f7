"""What follows from each way to fail: one table, one row for every error class. Pure.

Cancelled and shed requests count for nothing. A caller's own mistake never counts against a model and never falls
back. Not here: HTTP statuses (``serving.protocol.status``), and carrying out what the table says.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from serving import errors


class Failure(NamedTuple):
    """What may and what must be done about a failure.

    ``retryable``: another attempt at the same version may do better. ``counts``: it speaks against the version, so
    its breaker hears of it, and against the replica. ``bad``: it is a bad event when versions are compared.
    ``may_fall_back``: something else than the version may answer. ``by_input``: it may be the input's doing, so who
    fails in this way at a request at which another version has failed so already isn't blamed for it.
    """

    retryable: bool
    counts: bool
    bad: bool
    may_fall_back: bool
    by_input: bool = False


_CALLER: Final = Failure(retryable=False, counts=False, bad=False, may_fall_back=False)
_SHED: Final = Failure(retryable=False, counts=False, bad=False, may_fall_back=True)
_CANT_NOW: Final = Failure(retryable=True, counts=False, bad=True, may_fall_back=True)
_MAY_PASS: Final = Failure(retryable=True, counts=True, bad=True, may_fall_back=True)
_COMPUTED_BADLY: Final = Failure(retryable=True, counts=True, bad=True, may_fall_back=True, by_input=True)

FAILURES: Final[Mapping[type[errors.RequestError], Failure]] = MappingProxyType(
    {
        errors.InvalidRequest: _CALLER,
        errors.BadQuality: _CALLER,
        errors.UnknownRoute: _CALLER,
        errors.ModelNotFound: _CALLER,
        errors.MethodNotAllowed: _CALLER,
        errors.PayloadTooLarge: _CALLER,
        errors.UnsupportedEncoding: _CALLER,
        # Overload is nobody's fault. What has time to spare may answer; the load isn't carried elsewhere.
        errors.Overloaded: _SHED,
        # These are of commands, which never come here.
        errors.LoadFailed: _CALLER,
        errors.NotAuthorized: _CALLER,
        errors.ForeignOrigin: _CALLER,
        errors.RolloutNotFound: _CALLER,
        errors.RolloutRefused: _CALLER,
        errors.BreakerNotOpen: _CALLER,
        errors.RolloutsUnavailable: _CALLER,
        errors.IncidentNotFound: _CALLER,
        errors.IncidentsUnavailable: _CALLER,
        # A defect of ours in a replica's process is that replica's, until a restart: another one may do better.
        errors.Internal: _MAY_PASS,
        # Nothing was sent, so it says nothing of how well the version computes.
        errors.ReplicaUnavailable: _CANT_NOW,
        errors.CircuitOpen: Failure(retryable=False, counts=False, bad=False, may_fall_back=True),
        errors.QueueTimeout: Failure(retryable=False, counts=False, bad=False, may_fall_back=True),
        # A replica that dies may have died of anything, but one after the other is the version's doing.
        errors.ReplicaLost: _MAY_PASS,
        errors.AttemptTimeout: _MAY_PASS,
        # The replica may be bad, not the version: another one may do better. Or the input is poison to every model.
        errors.ModelFailed: _COMPUTED_BADLY,
        errors.InvalidAnswer: _COMPUTED_BADLY,
        # No time is left for anything else.
        errors.DeadlineExceeded: Failure(retryable=False, counts=True, bad=True, may_fall_back=False),
        errors.NoAnswer: Failure(retryable=False, counts=False, bad=False, may_fall_back=False),
    }
)


def failure_of(error: errors.RequestError) -> Failure:
    """The row of an error's class."""
    return FAILURES[type(error)]
