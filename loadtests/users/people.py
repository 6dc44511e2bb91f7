"""The locust users: one class for each kind of client. This imports locust, which changes how everything waits."""

from typing import ClassVar, Final

from locust import User, constant, task
from locust.env import Environment

from loadtests.resilience.answers import DEGRADED_HEADER, Judge
from loadtests.resilience.client import NoReply, Reply
from loadtests.resilience.figures import Kind
from loadtests.users.asking import DIGITS, LITE, Requests
from loadtests.users.load import Arrival
from loadtests.users.office import Office
from loadtests.users.plan import Plan
from loadtests.users.rows import Outcome, Row
from loadtests.users.wire import Connection

_OUTCOMES: Final = {
    Kind.OK: Outcome.OK,
    Kind.DEGRADED: Outcome.DEGRADED,
    Kind.WRONG: Outcome.WRONG,
    Kind.UNMARKED: Outcome.WRONG,
    Kind.FAILED: Outcome.ERROR,
}
_SIP_S: Final = 0.02
_GOES_MS: Final = 21
"""A cancelling client goes after 0, 1, ... or 20 ms."""


class Client(User):
    """One client with a connection of its own. It does what is due, one after the other."""

    abstract = True
    wait_time = constant(0)
    kind: ClassVar[str]
    office: ClassVar[Office]
    plan: ClassVar[Plan]
    requests: ClassVar[Requests]
    judges: ClassVar[dict[str, Judge]]

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.connection = Connection(self.plan.host, self.plan.port)

    @task
    def work(self) -> None:
        arrival = self.office.next(self.kind)
        sent_s = self.office.now_s
        image = arrival.number % self.plan.images
        model = self.model(arrival)
        try:
            reply = self.ask(self.request(arrival, image, model))
        except NoReply as error:
            self._note(arrival, sent_s, model, 0, Outcome.ERROR, error=error)
        else:
            if reply is None:
                self._note(arrival, sent_s, model, 0, Outcome.CANCELLED)
            else:
                outcome, by = self.judge(image, model, reply)
                degraded = reply.headers.get(DEGRADED_HEADER, "")
                self._note(arrival, sent_s, model, reply.status, outcome, by=by, degraded=degraded)

    def model(self, arrival: Arrival) -> str:
        return DIGITS

    def request(self, arrival: Arrival, image: int, model: str) -> bytes:
        return self.requests.json(image, model)

    def ask(self, request: bytes) -> Reply | None:
        """The answer, or None if nobody waited for it. Raises `NoReply`."""
        return self.connection.exchange(request, timeout_s=self.plan.timeout_s)

    def judge(self, image: int, model: str, reply: Reply) -> tuple[Outcome, str]:
        if reply.status == 429:
            return Outcome.SHED, ""
        judged = self.judges[model].judge(image, reply)
        return _OUTCOMES[judged.kind], judged.by

    def _note(
        self,
        arrival: Arrival,
        sent_s: float,
        model: str,
        status: int,
        outcome: Outcome,
        *,
        by: str = "",
        degraded: str = "",
        error: Exception | None = None,
    ) -> None:
        done_s = self.office.now_s
        row = Row(arrival.due_s, sent_s, done_s, self.kind, model, status, outcome, by, degraded)
        self.environment.events.request.fire(
            request_type=self.kind,
            name=model,
            response_time=row.took_s * 1000,
            response_length=0,
            exception=error or (ValueError(outcome) if outcome in (Outcome.ERROR, Outcome.WRONG) else None),
            context={},
        )
        self.office.done(self.kind, row)


class Json(Client):
    kind = "json"


class Binary(Client):
    kind = "binary"

    def request(self, arrival: Arrival, image: int, model: str) -> bytes:
        return self.requests.binary(image)


class Mixed(Client):
    """Asks two models in turns."""

    kind = "mixed"

    def model(self, arrival: Arrival) -> str:
        return LITE if arrival.number % 2 else DIGITS


class Sticky(Client):
    kind = "sticky"

    def request(self, arrival: Arrival, image: int, model: str) -> bytes:
        return self.requests.sticky(image, arrival.number)


class Bursts(Client):
    kind = "bursts"


class SlowReaders(Client):
    """Reads the answer sip by sip."""

    kind = "slow_readers"

    def ask(self, request: bytes) -> Reply | None:
        return self.connection.exchange(request, timeout_s=self.plan.timeout_s, sip_s=_SIP_S)


class Cancelling(Client):
    """Goes away a moment after it has asked."""

    kind = "cancelling"

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self._turn = 0

    def ask(self, request: bytes) -> Reply | None:
        self._turn += 1
        self.connection.abandon(request, after_s=max(0.0005, self._turn % _GOES_MS / 1000))
        return None


class Poison(Client):
    """Asks what nothing can answer well: an error or a marked fallback is the right answer, anything else is wrong."""

    kind = "poison"

    def request(self, arrival: Arrival, image: int, model: str) -> bytes:
        return self.requests.poison()

    def judge(self, image: int, model: str, reply: Reply) -> tuple[Outcome, str]:
        by = reply.headers.get("holdfast-version", "")
        if reply.status == 200:
            return (Outcome.OK if reply.headers.get(DEGRADED_HEADER) else Outcome.WRONG), by
        return (Outcome.SHED if reply.status == 429 else Outcome.OK), by


KINDS: Final[dict[str, type[Client]]] = {
    client.kind: client for client in (Json, Binary, Mixed, Sticky, Bursts, SlowReaders, Cancelling, Poison)
}
