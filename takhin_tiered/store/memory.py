"""A store in memory, for tests of what stands above it. It keeps the whole contract."""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence

from takhin_tiered.codec.checksums import Checksum, Source, bytes_source, checksum_of
from takhin_tiered.concurrency import in_thread
from takhin_tiered.errors import ObjectCorrupt, ObjectExists, ObjectMissing
from takhin_tiered.store.base import NotSupported, ObjectInfo, StoreTime
from takhin_tiered.store.landing import Seen, unseen, write_sparse


class MemoryStore:
    def __init__(self) -> None:
        self._objects: dict[str, tuple[bytes, ObjectInfo]] = {}

    @property
    def address(self) -> str:
        return "memory"

    async def check(self) -> None:
        """It is always there."""

    async def recognise(self, key: str, is_known: Callable[[bytes | None], bool]) -> bytes | None:
        data = self._objects[key][0] if key in self._objects else None
        is_known(data)
        return data

    async def now(self) -> StoreTime | None:
        return StoreTime(time.time(), is_independent=False)

    async def wants_md5(self) -> bool:
        return False

    async def capabilities(self) -> None:
        return None

    async def put(
        self,
        key: str,
        body: Source,
        *,
        size: int,
        checksum: Checksum,
        if_absent: bool = False,
        storage_class: str = "",  # noqa: ARG002 - there are none
    ) -> ObjectInfo:
        data = await in_thread(body, 0, size)
        found = checksum_of(bytes_source(data), len(data), checksum.part_size)
        if len(data) != size or found != checksum:
            raise ObjectCorrupt("the bytes are not those of the checksum", key=key)
        if if_absent and key in self._objects:
            raise ObjectExists("there is an object already", key=key)
        info = ObjectInfo(key, size, found.sha256, time.time())
        self._objects[key] = (data, info)
        return info

    async def head(self, key: str) -> ObjectInfo | None:
        found = self._objects.get(key)
        return found[1] if found else None

    async def read(self, key: str, *, limit: int = 1 << 20) -> bytes:
        if key not in self._objects:
            raise ObjectMissing("there is no such object", key=key)
        return self._objects[key][0][:limit]

    async def open(self, key: str, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        if piece := (await self.read(key, limit=sys.maxsize))[start:end]:
            yield piece

    async def fetch_into(
        self, key: str, file: int, *, start: int = 0, end: int | None = None, seen: Seen = unseen
    ) -> None:
        piece = memoryview((await self.read(key, limit=sys.maxsize))[start:end])

        def land() -> None:
            seen(piece)
            write_sparse(file, piece, start)

        if piece:
            await in_thread(land)

    async def list(self, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        for key in sorted(self._objects):
            if key.startswith(prefix):
                _, info = self._objects[key]
                yield ObjectInfo(key, info.size, None, info.modified)

    async def retrieve(self, key: str, *, days: int, tier: str) -> None:  # noqa: ARG002
        raise NotSupported("there are no storage classes here", key=key)

    async def change_class(self, key: str, storage_class: str, *, size: int, checksum: Checksum) -> None:  # noqa: ARG002
        raise NotSupported("there are no storage classes here", key=key)

    async def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            self._objects.pop(key, None)

    async def remove_stale_uploads(
        self,
        older_than: float,  # noqa: ARG002 - writes here are never unfinished
        ours: Callable[[str], bool] = lambda _: True,  # noqa: ARG002
        begun: Sequence[str] = (),  # noqa: ARG002
    ) -> int:
        return 0
