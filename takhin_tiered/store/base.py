"""The object store, as the engine sees it. One contract suite holds for every backend.

Keys are relative: a store adds its bucket and prefix on the way in, and takes them off on the way out.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from takhin_tiered.codec.checksums import Checksum, Source
from takhin_tiered.store.wire import Sink

OWNER_KEY = "takhin-tiered.owner.json"
CHALLENGE_KEY = "takhin-tiered.challenge.json"
LAST_OWNER_KEY = "takhin-tiered.last-owner.json"
STORE_KEY = "takhin-tiered.store.json"
PROBE_KEY = "takhin-tiered.probe"


def is_of_the_prefix(key: str) -> bool:
    """Whether an object belongs to whoever writes under a prefix, rather than to an archived segment."""
    return key.startswith("takhin-tiered.") and "/" not in key


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What the store says of an object: bytes, its SHA-256 (None where it keeps none), time of writing.

    ``sha256`` has the form of `Checksum.sha256`; ``modified`` is seconds since the epoch. ``read_only``: it stands
    under a prefix that is only read, so a `delete` leaves it.
    """

    key: str
    size: int
    sha256: str | None
    modified: float
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class StoreTime:
    """The store's clock, seconds since the epoch. ``is_independent``: it is another machine's, and can confirm ours."""

    seconds: float
    is_independent: bool


class ObjectStore(Protocol):
    """Errors are `StoreError` and those below it; every wait is bounded."""

    @property
    def address(self) -> str:
        """Where it is, for people: ``s3://bucket/prefix``."""
        ...

    async def check(self) -> None:
        """Return if objects could be listed now, else raise why not."""
        ...

    async def recognise(self, key: str, is_known: Callable[[bytes | None], bool]) -> bytes | None:
        """The object by which a store is known, as it stands in whatever is at the address now; None where there is
        none. Where ``is_known`` says yes to it, that is the store from now on.
        """
        ...

    async def now(self) -> StoreTime | None:
        """What time it is by the store's clock; None where it tells none."""
        ...

    async def wants_md5(self) -> bool:
        """Whether an upload is proven by an MD5 in its checksum, as nothing else is looked at."""
        ...

    async def put(
        self, key: str, body: Source, *, size: int, checksum: Checksum, if_absent: bool = False
    ) -> ObjectInfo:
        """Store an object, whole or not at all.

        The store refuses bytes that are not those of ``checksum`` (`ObjectCorrupt`). With ``if_absent``
        it raises `ObjectExists` where there is an object already.
        """
        ...

    async def head(self, key: str) -> ObjectInfo | None: ...

    async def read(self, key: str, *, limit: int = 1 << 20) -> bytes:
        """A small object, whole; never more than ``limit`` bytes of it. `ObjectMissing` where there is none."""
        ...

    async def fetch(self, key: str, sink: Sink, *, start: int = 0, end: int | None = None) -> None:
        """Bytes ``start`` to ``end`` (exclusive; None: to the end), each piece given to ``sink`` in a thread.

        Raises `ObjectMissing` where there is none. What ``sink`` raises goes up, and ends it.
        """
        ...

    def list(self, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        """Every object whose key starts with the prefix, by key; without checksums."""
        ...

    async def delete(self, keys: Sequence[str]) -> None:
        """Remove objects; one that is not there is no error."""
        ...

    async def remove_stale_uploads(self, older_than: float, ours: Callable[[str], bool] = lambda _: True) -> int:
        """Remove what unfinished writes of keys that are ours left more than so many seconds ago; returns how many."""
        ...
