"""Which assignment strategy the members of a group have in common: the protocol calls it their protocol. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from takhin_tiered.kafka.membership import Protocol


class Strategies:
    """Counts by how many members each is supported."""

    def __init__(self) -> None:
        self._count, self._support = 0, Counter[str]()

    def add(self, protocols: Iterable[Protocol]) -> None:
        """Those of one more member."""
        self._count += 1
        self._support.update({each.name for each in protocols})

    def remove(self, protocols: Iterable[Protocol]) -> None:
        self._count -= 1
        for name in {each.name for each in protocols}:
            self._support[name] -= 1
            if not self._support[name]:
                del self._support[name]

    def are_shared(self, protocols: Iterable[Protocol]) -> bool:
        """Whether all members support one of these."""
        return any(self._support[each.name] == self._count for each in protocols)

    def chosen(self, members: Iterable[Iterable[Protocol]]) -> str:
        """Of those that all members support, the one that most of them prefer. Who supports none may not join."""
        votes = Counter(
            next(each.name for each in protocols if self._support[each.name] == self._count) for protocols in members
        )
        return votes.most_common(1)[0][0]
