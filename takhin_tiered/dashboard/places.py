"""Who may have a stream of live numbers: so many at once, and so many of one visitor."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field

STREAMS_AT_MOST = 32
OF_A_SESSION = 4
"""Less than the six connections that a browser has to one server: a page that is opened beside them needs one."""
OF_AN_ADDRESS = 16
"""Without a login. Behind it may be several browsers."""


@dataclass(slots=True, eq=False)
class Place:
    """``gives_way``: another stream has it now. The one that had it says so, and ends."""

    owner: str
    gives_way: asyncio.Event = field(default_factory=asyncio.Event)


class Places:
    """A new stream makes the oldest one of its own visitor give way, or of who has most: nobody locks others out."""

    def __init__(self, at_most: int = STREAMS_AT_MOST) -> None:
        self._at_most = at_most
        self._taken: list[Place] = []

    def take(self, owner: str, at_most: int) -> Place | None:
        """None where all are taken, and nobody has two more than this one."""
        counts = Counter(place.owner for place in self._taken)
        if counts[owner] >= at_most:
            self._let_go(owner)
        elif len(self._taken) >= self._at_most:
            other, most = counts.most_common(1)[0]
            if most < counts[owner] + 2:
                return None
            self._let_go(other)
        place = Place(owner)
        self._taken.append(place)
        return place

    def leave(self, place: Place) -> None:
        """It has ended, by whatever cause."""
        if place in self._taken:
            self._taken.remove(place)

    def _let_go(self, owner: str) -> None:
        oldest = next(place for place in self._taken if place.owner == owner)
        oldest.gives_way.set()
        self._taken.remove(oldest)
