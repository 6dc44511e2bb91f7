"""Several observers as one: each hears what it would hear alone."""

from __future__ import annotations

import pytest

from serving.errors import ModelFailed
from serving.request.pipeline import Ended, Hear, InferCall
from serving.tracing.observers import Observers
from tests.unit.serving.incidents.conftest import ended
from tests.unit.serving.request.test_pipeline import Seen, call


class Choosing(Seen):
    def __init__(self, *, wants: bool) -> None:
        super().__init__()
        self.wants = wants

    def of_good(self, call: InferCall) -> Hear | None:
        return self.ended if self.wants else None


@pytest.mark.parametrize("wants", [(), (False,), (True,), (False, True, False), (True, False, True), (True, True)])
def test_of_a_good_answer_hears_who_chose_it(wants: tuple[bool, ...]) -> None:
    each = [Choosing(wants=want) for want in wants]
    good = ended()
    hear = Observers(each).of_good(call())
    assert (hear is not None) == any(wants)
    if hear is not None:
        hear(good)
    assert [one.all for one in each] == [[good] if want else [] for want in wants]


def test_of_anything_else_all_hear() -> None:
    each = [Choosing(wants=want) for want in (False, True)]
    bad: Ended = ended(ModelFailed("it broke"))
    Observers(each).ended(bad)
    assert [one.all for one in each] == [[bad], [bad]]
