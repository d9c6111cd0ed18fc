"""The prefix in the hands of its owner: the only object that writes to the store, or removes from it.

`Ownership.own` makes it. A verb that changes the archive takes one, so none can forget to ask whose the prefix is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from takhin_tiered.codec.checksums import Checksum, Source
from takhin_tiered.store.base import ObjectInfo, ObjectStore, ReadableStore


class Fence(Protocol):
    async def __call__(self, *, fresh: bool) -> None:
        """Return if the prefix is ours, else raise. ``fresh``: ask the store now, whatever it said before."""
        ...


class OwnedPrefix:
    """Each write asks first whether the prefix is still ours; what removes or overwrites asks the store anew.

    Raises `HeldElsewhere` where another owner took it, `ClaimGone` where it is nobody's, and `StoreError`.
    """

    def __init__(self, store: ObjectStore, fence: Fence) -> None:
        self._store = store
        self._fence = fence

    @property
    def store(self) -> ReadableStore:
        """The same prefix, to be read."""
        return self._store

    async def require(self) -> None:
        """Return if the prefix is ours by the store's own word, asked now: before something local is unlinked."""
        await self._fence(fresh=True)

    async def put(
        self, key: str, body: Source, *, size: int, checksum: Checksum, if_absent: bool = False
    ) -> ObjectInfo:
        """See `ObjectStore.put`. Without ``if_absent`` the store refuses no second write, so it must not come late."""
        await self._fence(fresh=not if_absent)
        return await self._store.put(key, body, size=size, checksum=checksum, if_absent=if_absent)

    async def delete(self, keys: Sequence[str]) -> None:
        """See `ObjectStore.delete`. Nothing brings back what it takes."""
        await self._fence(fresh=True)
        await self._store.delete(keys)

    async def remove_stale_uploads(
        self, older_than: float, ours: Callable[[str], bool] = lambda _: True, begun: Sequence[str] = ()
    ) -> int:
        """See `ObjectStore.remove_stale_uploads`."""
        await self._fence(fresh=True)
        return await self._store.remove_stale_uploads(older_than, ours, begun)
