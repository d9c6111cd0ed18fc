"""A store that also reads where earlier daemons archived to: `storage.tiered.s3.prefixes.read`.

What is written, and what is deleted, is its own. An object that it lacks is looked for in the others, in order;
one of its own hides theirs of the same key. So an object that stands in another prefix is there still after a
`delete`: `ObjectInfo.read_only` tells those, and retention leaves them alone.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace

from takhin_tiered.codec.checksums import Checksum, Source
from takhin_tiered.errors import ObjectMissing
from takhin_tiered.store.base import Capabilities, ObjectInfo, ObjectStore, StoreTime, is_of_the_prefix
from takhin_tiered.store.landing import Seen, unseen


class FallbackStore:
    def __init__(self, own: ObjectStore, others: Sequence[ObjectStore]) -> None:
        self._own, self._others = own, tuple(others)

    @property
    def address(self) -> str:
        return self._own.address

    async def check(self) -> None:
        """Of all: an object must not seem to be missing because its prefix cannot be read."""
        for store in (self._own, *self._others):
            await store.check()

    async def recognise(self, key: str, is_known: Callable[[bytes | None], bool]) -> bytes | None:
        return await self._own.recognise(key, is_known)

    async def now(self) -> StoreTime | None:
        return await self._own.now()

    async def wants_md5(self) -> bool:
        return await self._own.wants_md5()

    async def capabilities(self) -> Capabilities | None:
        return await self._own.capabilities()

    async def put(
        self,
        key: str,
        body: Source,
        *,
        size: int,
        checksum: Checksum,
        if_absent: bool = False,
        storage_class: str = "",
    ) -> ObjectInfo:
        return await self._own.put(
            key, body, size=size, checksum=checksum, if_absent=if_absent, storage_class=storage_class
        )

    async def head(self, key: str) -> ObjectInfo | None:
        for store in self._that_may_have(key):
            if (info := await store.head(key)) is not None:
                return replace(info, read_only=store is not self._own)
        return None

    async def read(self, key: str, *, limit: int = 1 << 20) -> bytes:
        *first, last = self._that_may_have(key)
        for store in first:
            try:
                return await store.read(key, limit=limit)
            except ObjectMissing:
                continue
        return await last.read(key, limit=limit)

    async def open(self, key: str, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        *first, last = self._that_may_have(key)
        begun = False
        for store in first:
            try:
                async with aclosing(store.open(key, start, end)) as pieces:
                    async for piece in pieces:
                        begun = True
                        yield piece
                return
            except ObjectMissing:
                # One that was deleted in the middle cannot be gone on with from another place.
                if begun:
                    raise
        async with aclosing(last.open(key, start, end)) as pieces:
            async for piece in pieces:
                yield piece

    async def fetch_into(
        self, key: str, file: int, *, start: int = 0, end: int | None = None, seen: Seen = unseen
    ) -> None:
        begun = False

        def see(piece: memoryview) -> None:
            nonlocal begun
            begun = True
            seen(piece)

        *first, last = self._that_may_have(key)
        for store in first:
            try:
                return await store.fetch_into(key, file, start=start, end=end, seen=see)
            except ObjectMissing:
                if begun:
                    raise
        return await last.fetch_into(key, file, start=start, end=end, seen=seen)

    async def list(self, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        listings = [store.list(prefix) for store in (self._own, *self._others)]
        heads = [await self._next(listing, number) for number, listing in enumerate(listings)]
        while waiting := [(head.key, number) for number, head in enumerate(heads) if head is not None]:
            key, first = min(waiting)
            found = heads[first]
            for each, number in waiting:
                if each == key:
                    heads[number] = await self._next(listings[number], number)
            if found is not None:
                yield found

    async def _next(self, listing: AsyncIterator[ObjectInfo], number: int) -> ObjectInfo | None:
        """The next object; of others' prefixes only what belongs to segments."""
        async for info in listing:
            if not number:
                return info
            if not is_of_the_prefix(info.key):
                return replace(info, read_only=True)
        return None

    async def retrieve(self, key: str, *, days: int, tier: str) -> None:
        *first, last = self._that_may_have(key)
        for store in first:
            try:
                return await store.retrieve(key, days=days, tier=tier)
            except ObjectMissing:
                continue
        return await last.retrieve(key, days=days, tier=tier)

    async def change_class(self, key: str, storage_class: str, *, size: int, checksum: Checksum) -> None:
        await self._own.change_class(key, storage_class, size=size, checksum=checksum)

    async def delete(self, keys: Sequence[str]) -> None:
        await self._own.delete(keys)

    async def remove_stale_uploads(
        self, older_than: float, ours: Callable[[str], bool] = lambda _: True, begun: Sequence[str] = ()
    ) -> int:
        return await self._own.remove_stale_uploads(older_than, ours, begun)

    def _that_may_have(self, key: str) -> tuple[ObjectStore, ...]:
        return (self._own,) if is_of_the_prefix(key) else (self._own, *self._others)
