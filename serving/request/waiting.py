"""The requests of a lane that wait to be sent, in the order in which they shall go. Pure.

Not here: where they are sent, and when (``serving.request.lane``).
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Generic, NamedTuple, Protocol, TypeVar


class Waiter(Protocol):
    """A request in the lane; ``avoid`` is the replica that had it before, if it was sent before."""

    avoid: str | None

    @property
    def ended(self) -> bool:
        """Whether nobody waits for it any more."""
        ...


W = TypeVar("W", bound=Waiter)


class Group(NamedTuple, Generic[W]):
    """Part of a batch that failed because of its content, and the replica that it failed on."""

    members: list[W]
    avoid: str


class Waiting(Generic[W]):
    """Three kinds: those that come for the first time, those that come again, and parts of batches that fell apart."""

    def __init__(self) -> None:
        self.fresh: OrderedDict[W, None] = OrderedDict()
        self.again: OrderedDict[W, None] = OrderedDict()
        self.groups: deque[Group[W]] = deque()

    def __len__(self) -> int:
        return len(self.fresh) + len(self.again) + sum(len(group.members) for group in self.groups)

    def __bool__(self) -> bool:
        return bool(self.fresh or self.again or self.groups)

    def add(self, waiter: W) -> None:
        if waiter.avoid is None:
            self.fresh[waiter] = None
        else:
            self.again[waiter] = None

    def discard(self, waiter: W) -> None:
        self.fresh.pop(waiter, None)
        self.again.pop(waiter, None)
        for group in self.groups:
            if waiter in group.members:
                group.members.remove(waiter)

    def halve(self, members: list[W], avoid: str) -> None:
        """Take a failed batch apart: each half goes by itself, to another replica if there is one."""
        middle = len(members) // 2
        self.groups.append(Group(members[:middle], avoid))
        self.groups.append(Group(members[middle:], avoid))

    def next_group(self) -> Group[W] | None:
        """The first part of a batch that anybody still waits for."""
        while self.groups:
            group = self.groups.popleft()
            if members := [waiter for waiter in group.members if not waiter.ended]:
                return Group(members, group.avoid)
        return None

    def avoided(self) -> list[str | None]:
        """The replicas that those who come again have been to."""
        return list(dict.fromkeys(waiter.avoid for waiter in self.again))

    def take_all(self) -> list[W]:
        """Everyone, in order; nobody is left."""
        everyone = [*self.again, *self.fresh, *(waiter for group in self.groups for waiter in group.members)]
        self.again.clear()
        self.fresh.clear()
        self.groups.clear()
        return everyone
