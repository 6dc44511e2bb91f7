"""The first usable answer wins, and each kind of answer says what it is."""

from __future__ import annotations

import pytest

from fallbacks.cached_prediction import CachedPrediction, Remembered
from fallbacks.chain import Chain, Degraded, Exhausted, Question, Unusable
from fallbacks.prior_version import PriorVersion
from fallbacks.shadow_model import ShadowModel
from fallbacks.stand_in import StandIn, stand_in_fault
from models.inference import Tensors
from models.signature import Signature, TensorSpec
from tests.fakes import DOUBLE, FakeClock, request_of, values_of

ASKED = Question(request_of(1, 2), 1010.0)


class Scripted:
    """A strategy that answers, or says why it doesn't."""

    kind = "static"

    def __init__(self, name: str, refusal: str | None = None) -> None:
        self.name = name
        self.asked = 0
        self._refusal = refusal

    async def answer(self, question: Question) -> Degraded:
        self.asked += 1
        if self._refusal is not None:
            raise Unusable(self._refusal)
        return Degraded(question.request.inputs, self.name, "v1", self.kind)


async def test_the_first_usable_answer_wins_and_nobody_behind_it_is_asked(clock: FakeClock) -> None:
    first, second, third = Scripted("a", "it is asleep"), Scripted("b"), Scripted("c")
    chain = Chain([first, second, third])
    assert (await chain.answer(ASKED)).model == "b"
    assert (first.asked, second.asked, third.asked) == (1, 1, 0)
    assert (dict(chain.answered), dict(chain.unusable)) == ({"b": 1}, {"a": 1})


async def test_when_nobody_has_an_answer_every_reason_is_told_in_order(clock: FakeClock) -> None:
    with pytest.raises(Exhausted, match=r"^a: it is asleep; b: it is away$"):
        await Chain([Scripted("a", "it is asleep"), Scripted("b", "it is away")]).answer(ASKED)


async def test_a_strategy_that_breaks_does_not_keep_the_next_from_answering(clock: FakeClock) -> None:
    class Broken(Scripted):
        async def answer(self, question: Question) -> Degraded:
            raise OSError("the disk is gone")

    chain = Chain([Broken("a"), Scripted("b")])
    assert (await chain.answer(ASKED)).model == "b"


async def test_a_defect_is_told_of_once_but_not_to_the_caller(clock: FakeClock) -> None:
    class Broken(Scripted):
        async def answer(self, question: Question) -> Degraded:
            raise OSError("the disk is gone")

    told: list[str] = []
    chain = Chain([Broken("a"), Broken("b")], broken=lambda name, error: told.append(f"{name}: {error!r}"))
    for _ in range(2):
        with pytest.raises(Exhausted, match=r"^a: internal error; b: internal error$"):
            await chain.answer(ASKED)
    assert told == ["a: OSError('the disk is gone')", "b: OSError('the disk is gone')"]


async def test_what_may_be_the_questions_own_doing_is_told_to_those_behind(clock: FakeClock) -> None:
    class Seen(Scripted):
        suspect: bool | None = None

        def __init__(self, name: str, unusable: Unusable) -> None:
            super().__init__(name)
            self._unusable = unusable

        async def answer(self, question: Question) -> Degraded:
            self.suspect = question.suspect
            raise self._unusable

    first = Seen("a", Unusable("it is asleep"))
    second = Seen("b", Unusable("it can't compute that", by_input=True))
    third, fourth = Seen("c", Unusable("it is asleep")), Seen("d", Unusable("it is asleep"))
    with pytest.raises(Exhausted):
        await Chain([first, second, third, fourth]).answer(ASKED)
    assert [strategy.suspect for strategy in (first, second, third, fourth)] == [False, False, True, True]


def test_a_chain_without_strategies_is_none() -> None:
    assert not Chain([])
    assert Chain([Scripted("a")])


def stand_in(signature: Signature = DOUBLE, version: str = "v1") -> StandIn:
    async def ask(question: Question) -> Tensors:
        return question.request.inputs

    return StandIn("other", version, signature, ask)


async def test_a_prior_version_and_a_shadow_model_say_who_they_are(clock: FakeClock) -> None:
    prior = await PriorVersion("v1", DOUBLE, stand_in).answer(ASKED)
    shadow = await ShadowModel("other", DOUBLE, stand_in).answer(ASKED)
    assert (prior.kind, prior.model, prior.version, values_of(prior.outputs)) == ("version", "other", "v1", [1, 2])
    assert (shadow.kind, shadow.age_s) == ("model", None)


async def test_one_that_is_not_served_or_has_another_signature_is_not_asked(clock: FakeClock) -> None:
    with pytest.raises(Unusable, match="isn't served"):
        await PriorVersion("v1", DOUBLE, lambda: None).answer(ASKED)
    other = Signature((TensorSpec("x", "FP64", (-1, 2)),), DOUBLE.outputs, batched=True)
    with pytest.raises(Unusable, match="input 'x' has another datatype or shape"):
        await ShadowModel("other", DOUBLE, lambda: stand_in(other)).answer(ASKED)


def spec(name: str = "x", datatype: str = "FP32", shape: tuple[int, ...] = (-1, 2)) -> TensorSpec:
    return TensorSpec(name, datatype, shape)


@pytest.mark.parametrize(
    ("inputs", "outputs", "fault"),
    [
        ((spec(),), (spec("y"),), None),
        ((spec(shape=(-1, -1)),), (spec("y"),), None),
        ((spec(shape=(-1, 3)),), (spec("y"),), "input 'x'"),
        ((spec(),), (spec("y", shape=(-1, -1)),), "output 'y'"),
        ((spec(), spec("more")), (spec("y"),), "inputs have other names"),
        ((spec(),), (spec("z"),), "outputs have other names"),
        ((spec(),), (spec("y", datatype="FP64"),), "output 'y'"),
    ],
)
def test_a_stand_in_takes_all_that_the_model_takes_and_gives_no_more(
    inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], fault: str | None
) -> None:
    found = stand_in_fault(DOUBLE, Signature(inputs, outputs, batched=True))
    assert (found is None) if fault is None else (found is not None and fault in found)


def test_a_stand_in_agrees_about_the_batch() -> None:
    assert stand_in_fault(DOUBLE, Signature(DOUBLE.inputs, DOUBLE.outputs, batched=False)) is not None


async def test_a_cached_answer_tells_its_age_and_its_store(clock: FakeClock) -> None:
    async def recall(question: Question) -> Remembered | None:
        return Remembered(question.request.inputs, "m", "v2", 12.5, "node")

    found = await CachedPrediction(recall).answer(ASKED)
    assert found[1:] == ("m", "v2", "cache", 12.5, "node")


async def test_without_a_cached_answer_there_is_none(clock: FakeClock) -> None:
    async def nothing(question: Question) -> Remembered | None:
        return None

    with pytest.raises(Unusable, match="no answer to these inputs"):
        await CachedPrediction(nothing).answer(ASKED)
