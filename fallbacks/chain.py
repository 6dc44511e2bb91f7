"""What to answer when the model can't: strategies in order, of which the first usable answer wins.

A strategy is given what it needs as plain functions; it knows nothing of lanes, breakers or the wire. Not here: when
a request falls back at all (``serving.request``), and the strategies, one a file beside this one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from models.inference import InferenceRequest, Tensors


class Unusable(Exception):
    """A strategy has no answer to this question; the text says why.

    ``by_input``: it may be the question's own doing, for whoever was asked has failed at computing an answer.
    """

    def __init__(self, reason: str, *, by_input: bool = False) -> None:
        super().__init__(reason)
        self.by_input = by_input


class Exhausted(Exception):
    """No strategy had an answer. ``reasons`` has a text for each, in order."""

    def __init__(self, reasons: Sequence[str]) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = tuple(reasons)


class Question(NamedTuple):
    """A request that the model couldn't answer. ``deadline`` in monotonic seconds.

    One that was ``shed`` may only have what has nothing else to do: its load shall not be carried elsewhere. One that
    is ``suspect`` has been failed at in a way that may be its own doing. ``trace`` is for whoever asks a model on a
    strategy's behalf; nothing here looks at it.
    """

    request: InferenceRequest
    deadline: float
    shed: bool = False
    suspect: bool = False
    trace: object = None


class Degraded(NamedTuple):
    """An answer that isn't the model's own, now: ``kind`` says what gave it, ``age_s`` how old it is if cached.

    ``outputs`` are as the model's signature has them; ``where`` says which store had a cached answer.
    """

    outputs: Tensors
    model: str
    version: str
    kind: str
    age_s: float | None = None
    where: str | None = None


class Strategy(Protocol):
    """One way to answer without the model."""

    @property
    def kind(self) -> str:
        """``version``, ``model``, ``cache`` or ``static``."""
        ...

    @property
    def name(self) -> str:
        """For people: ``version v1``, for example."""
        ...

    async def answer(self, question: Question) -> Degraded:
        """Raises ``Unusable``; never waits past the deadline."""
        ...


class Chain:
    """Strategies in the order in which they are asked, and how often each answered."""

    def __init__(
        self, strategies: Sequence[Strategy], *, broken: Callable[[str, Exception], object] = lambda _name, _error: None
    ) -> None:
        """``broken`` hears of a strategy's defect: of the first of each type that each of them has, by its name."""
        self.strategies = tuple(strategies)
        self._broken = broken
        self._defects: set[tuple[str, type[Exception]]] = set()
        self.answered: Counter[str] = Counter()
        self.unusable: Counter[str] = Counter()

    def __bool__(self) -> bool:
        return bool(self.strategies)

    async def answer(self, question: Question) -> Degraded:
        """The first usable answer. Raises ``Exhausted``."""
        reasons: list[str] = []
        for strategy in self.strategies:
            try:
                degraded = await strategy.answer(question)
            except Unusable as unusable:
                self.unusable[strategy.name] += 1
                reasons.append(f"{strategy.name}: {unusable}")
                if unusable.by_input:
                    question = question._replace(suspect=True)
            except Exception as error:  # noqa: BLE001  # a defect of one strategy mustn't keep the next from answering
                self.unusable[strategy.name] += 1
                reasons.append(f"{strategy.name}: internal error")
                if (defect := (strategy.name, type(error))) not in self._defects:
                    self._defects.add(defect)
                    self._broken(strategy.name, error)
            else:
                self.answered[strategy.name] += 1
                return degraded
        raise Exhausted(reasons)
