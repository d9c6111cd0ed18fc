"""A store to which only the owner of the prefix writes: each write, and each removal, asks for that first."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol

from takhin_tiered.codec.checksums import Checksum, Source
from takhin_tiered.store.base import Capabilities, ObjectInfo, ObjectStore, StoreTime
from takhin_tiered.store.wire import Sink


class Fence(Protocol):
    async def __call__(self, *, fresh: bool) -> None:
        """Return if the prefix is ours, else raise. ``fresh``: ask the store now, whatever it said before."""
        ...


async def nothing_stands_between(*, fresh: bool) -> None:
    """The fence of whoever has nobody to share with."""


class FencedStore:
    """Reads go straight through. What removes or overwrites asks the store anew: nothing brings back what it took."""

    def __init__(self, store: ObjectStore, fence: Fence) -> None:
        self.inner = store
        self._fence = fence

    @property
    def address(self) -> str:
        return self.inner.address

    async def check(self) -> None:
        await self.inner.check()

    async def recognise(self, key: str, is_known: Callable[[bytes | None], bool]) -> bytes | None:
        return await self.inner.recognise(key, is_known)

    async def now(self) -> StoreTime | None:
        return await self.inner.now()

    async def wants_md5(self) -> bool:
        return await self.inner.wants_md5()

    async def capabilities(self) -> Capabilities | None:
        """Asked of the server with an object of its own, which is nobody's: there is no fence before it."""
        return await self.inner.capabilities()

    async def put(
        self, key: str, body: Source, *, size: int, checksum: Checksum, if_absent: bool = False
    ) -> ObjectInfo:
        # A second write of the same key is not refused by the store, and so must not come late.
        await self._fence(fresh=not if_absent)
        return await self.inner.put(key, body, size=size, checksum=checksum, if_absent=if_absent)

    async def head(self, key: str) -> ObjectInfo | None:
        return await self.inner.head(key)

    async def read(self, key: str, *, limit: int = 1 << 20) -> bytes:
        return await self.inner.read(key, limit=limit)

    async def fetch(self, key: str, sink: Sink, *, start: int = 0, end: int | None = None) -> None:
        await self.inner.fetch(key, sink, start=start, end=end)

    def list(self, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        return self.inner.list(prefix)

    async def delete(self, keys: Sequence[str]) -> None:
        await self._fence(fresh=True)
        await self.inner.delete(keys)

    async def remove_stale_uploads(
        self, older_than: float, ours: Callable[[str], bool] = lambda _: True, begun: Sequence[str] = ()
    ) -> int:
        await self._fence(fresh=True)
        return await self.inner.remove_stale_uploads(older_than, ours, begun)
