"""The prefix in the hands of its owner: the only object that writes to the store, or removes from it.

`Ownership.own` makes it. A verb that changes the archive takes one, so none can forget to ask whose the prefix is.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

from takhin_tiered.codec.checksums import Checksum, Source
from takhin_tiered.segments.manifest import Manifest
from takhin_tiered.segments.names import Partition, SegmentId
from takhin_tiered.store.base import ObjectInfo, ObjectStore, ReadableStore


class Fence(Protocol):
    async def __call__(self, *, fresh: bool) -> None:
        """Return if the prefix is ours, else raise. ``fresh``: ask the store now, whatever it said before."""
        ...


class OwnedPrefix:
    """Each write asks first whether the prefix is still ours; what removes or overwrites asks the store anew.

    Raises `HeldElsewhere` where another owner took it, `ClaimGone` where it is nobody's, and `StoreError`.

    This has a single owner. Where replicas share the prefix it is `takhin_tiered.vault.replicas.SharedPrefix`: there
    ``replica`` names this one of them, and what others rely on is neither removed nor replaced.
    """

    replica = ""

    def __init__(self, store: ObjectStore, fence: Fence) -> None:
        self._store = store
        self._fence = fence
        self.looked_at: set[Partition] = set()
        """Partitions whose archive was looked at, for what other replicas archived, since this object was made."""

        self.begun: set[Partition] = set()
        """Partitions of which this replica has archived something since then, before others were known to have."""
        self.waits: dict[Partition, int] = {}
        """The lowest segment of each that waits until another replica has archived it."""

    @property
    def is_shared(self) -> bool:
        return bool(self.replica)

    @property
    def store(self) -> ReadableStore:
        """The same prefix, to be read."""
        return self._store

    async def require(self) -> None:
        """Return if the prefix is ours by the store's own word, asked now: before something local is unlinked."""
        await self._fence(fresh=True)

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
        """See `ObjectStore.put`. Without ``if_absent`` the store refuses no second write, so it must not come late."""
        await self._fence(fresh=not if_absent)
        return await self._store.put(
            key, body, size=size, checksum=checksum, if_absent=if_absent, storage_class=storage_class
        )

    async def change_class(self, key: str, storage_class: str, *, size: int, checksum: Checksum) -> None:
        """See `ObjectStore.change_class`. It replaces an object, by itself."""
        await self._fence(fresh=True)
        await self._store.change_class(key, storage_class, size=size, checksum=checksum)

    async def hold(self, identity: SegmentId) -> None:
        """Before the segment's archived copy is made, or relied on: nobody removes it from then on.

        `SegmentBusy` where another replica is just removing or changing it.
        """

    async def hold_parts(self, identity: SegmentId) -> None:
        """The same, before bytes of the segment's log are relied on as a part of another log.

        To be called with or without the segment's lock.
        """

    async def release_parts(self, identity: SegmentId) -> None:
        """No log of this replica has parts of the segment's any more."""

    async def adopters(self, identity: SegmentId) -> frozenset[str]:  # noqa: ARG002
        """Who relies on the segment's archived copy, by the names in their records, this replica too."""
        return frozenset()

    async def is_behind(self, identity: SegmentId) -> bool:  # noqa: ARG002
        """Whether another replica, which may be at work, held the segment before this one did, and not for long.

        So where several are about to archive it at once, one of them uploads it. One that cannot is not waited for
        after a day, by the store's clock.
        """
        return False

    async def others(self, identity: SegmentId) -> frozenset[str]:  # noqa: ARG002
        """The other replicas that rely on the segment's archived copy."""
        return frozenset()

    async def tidy(self, identity: SegmentId) -> None:
        """Remove what an earlier process left beside the segment for other replicas to see."""

    async def release(self, identity: SegmentId) -> None:
        """This replica relies on the segment's archived copy no more."""

    @asynccontextmanager
    async def replacing(self, before: Manifest, after: Manifest, key: str = "") -> AsyncIterator[None]:  # noqa: ARG002
        """Within, the manifest ``after`` may be put in the place of ``before``, which stands under ``key``.

        Without a key it is the segment's current one. `SegmentShared` where other replicas rely on files that ``after``
        lacks, and `SegmentBusy` where another one changes it too.
        """
        yield

    async def delete(self, keys: Sequence[str], *, gives_up_parts: bool = False) -> None:  # noqa: ARG002
        """See `ObjectStore.delete`. Nothing brings back what it takes.

        ``gives_up_parts``: no log of this replica needs parts of these any more, whatever its records say.
        """
        await self._fence(fresh=True)
        await self._store.delete(keys)

    async def remove_stale_uploads(
        self, older_than: float, ours: Callable[[str], bool] = lambda _: True, begun: Sequence[str] = ()
    ) -> int:
        """See `ObjectStore.remove_stale_uploads`."""
        await self._fence(fresh=True)
        return await self._store.remove_stale_uploads(older_than, ours, begun)
