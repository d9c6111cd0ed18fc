"""Where the objects of tables stand: under the prefix of the store, beside the segments.

The daemon of a data directory owns the segments of its prefix, and not these: any number of processes, applications
too, write to one table. What keeps them apart is that an object is only made where there is none, that only one of
several pointers is accepted by the table, and that whoever removes an object follows `removing`.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence

from takhin_tiered.aws.outcomes import Item
from takhin_tiered.codec.checksums import bytes_source, checksum_of
from takhin_tiered.concurrency import in_thread
from takhin_tiered.errors import ConfigError, ObjectExists, ObjectMissing
from takhin_tiered.hybrid import objects
from takhin_tiered.hybrid.keys import is_possible
from takhin_tiered.store import ObjectInfo, ObjectStore
from takhin_tiered.vault.codecs import Codecs
from takhin_tiered.vault.owned import OwnedPrefix
from takhin_tiered.vault.proof import prove, put_proven

_IN_A_THREAD = 32 << 10
"""Bytes: what is smaller is packed sooner than a thread begins."""


async def _whosever(*, fresh: bool) -> None:
    """No owner is asked for: see above. ``fresh`` makes no difference."""
    del fresh


class Shelf:
    """``codecs`` are those of segments; the name of the table counts as the topic."""

    def __init__(self, store: ObjectStore, codecs: Codecs) -> None:
        self._store, self._codecs = store, codecs
        self._owned = OwnedPrefix(store, _whosever)

    @property
    def address(self) -> str:
        return self._store.address

    async def require_conditional(self) -> None:
        """`ConfigError` where the server takes a conditional write for an ordinary one."""
        found = await self._store.capabilities()
        if found is not None and found.conditional_writes is False:
            raise ConfigError(
                f"{self.address}: the server has no conditional writes, so that two writers could replace each other's "
                "objects",
                hint="Hybrid tables need a server that refuses `If-None-Match: *` where there is an object. Nothing was"
                " archived",
            )

    async def pack(self, table: str, key: str, plain: bytes) -> bytes:
        level, keys = self._codecs.level_for(table), self._codecs.keys
        if len(plain) < _IN_A_THREAD:
            return objects.pack(plain, key, level=level, keys=keys)
        return await in_thread(objects.pack, plain, key, level=level, keys=keys)

    @property
    def is_bound(self) -> bool:
        """Whether the bytes of an object depend on its key: encrypted ones do."""
        return bool(self._codecs.keys.current)

    async def create(self, key: str, data: bytes) -> bool:
        """Store an object and prove it; False where there is one already, whatever it holds. `StoreError`."""
        checksum = checksum_of(bytes_source(data), len(data))
        try:
            answer = await self._owned.put(key, bytes_source(data), size=len(data), checksum=checksum, if_absent=True)
        except ObjectExists:
            return False
        await prove(self._store, key, len(data), checksum, answer=answer, segment="")
        return True

    async def plain(self, key: str) -> bytes:
        """The item's JSON. `ObjectMissing`, `Damaged`, `NoKey`, `WrongKey` and other `StoreError`."""
        if not is_possible(key):
            # Somebody else wrote the pointer.
            raise ObjectMissing(f"no object of an item is called {key[:100]!r}", key=key)
        data = await self._store.read(key, limit=objects.MOST_STORED)
        if len(data) < _IN_A_THREAD:
            return objects.unpack(data, key, self._codecs.keys)
        return await in_thread(objects.unpack, data, key, self._codecs.keys)

    async def item(self, key: str) -> Item:
        """The item in an object, as `plain`."""
        return objects.read_item(await self.plain(key), key)

    async def exists(self, key: str) -> bool:
        return await self._store.head(key) is not None

    async def remove(self, keys: Sequence[str]) -> None:
        await self._owned.delete(keys)

    async def write_record(self, key: str, data: bytes, *, if_absent: bool = False) -> None:
        """`OtherBytes` where ``if_absent`` and another one stands there."""
        await put_proven(self._owned, key, data, segment="", if_absent=if_absent)

    async def read_record(self, key: str) -> bytes:
        """`ObjectMissing`, and other `StoreError`."""
        return await self._store.read(key)

    async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        async for info in self._store.list(prefix):
            yield info

    async def now(self) -> float:
        """By the store's clock, which tells the ages of objects; seconds since the epoch."""
        found = await self._store.now()
        return time.time() if found is None else found.seconds
