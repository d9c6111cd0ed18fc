"""A store that is watched: whether it answers, since when it does not, and how often it failed.

Only an answer of the store marks it as up. An outage begins with the first failure and counts once, however many
operations fail in it.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager

from takhin_tiered import logs
from takhin_tiered.codec.checksums import Checksum, Source
from takhin_tiered.errors import BucketMissing, StoreChanged, StoreDenied, StoreError, StoreUnavailable
from takhin_tiered.metrics import Metrics
from takhin_tiered.store.base import (
    Capabilities,
    Conflict,
    NotSupported,
    ObjectInfo,
    ObjectStore,
    StoreTime,
)
from takhin_tiered.store.landing import Seen, unseen

_ANSWERS = (Conflict, NotSupported)
"""What a store says of one request, while it may well serve others."""


def is_outage(error: StoreError) -> bool:
    """Whether it is the store that failed, and not one object or request."""
    return isinstance(error, StoreUnavailable | BucketMissing | StoreChanged) and not isinstance(error, _ANSWERS)


class StoreHealth:
    """``problem`` is why the store cannot be used, empty while it can; ``down_since`` is 0 then, else the time of the
    first failure, in seconds since the epoch.
    """

    def __init__(self, metrics: Metrics, clock: Callable[[], float] = time.time) -> None:
        self.metrics, self._clock = metrics, clock
        self.problem = "not asked yet"
        self.down_since = 0.0
        self._error: StoreError | None = None

    def failed(self, error: StoreError) -> None:
        """The store cannot be used."""
        if self._error is None or self._error.code != error.code:
            self.metrics.store_errors.labels(error.code).inc(1, logs.exemplar())
        if not self.down_since:
            self.down_since = self._clock()
            logs.logger().error("the store is down", error=str(error))
        self._error, self.problem = error, str(error)
        self._tell()

    def answered(self) -> None:
        """The store did what it was asked: what kept silent is up; one that refused to be used is not yet."""
        if self._error is None or isinstance(self._error, StoreUnavailable | BucketMissing):
            self._up()

    def listed(self) -> None:
        """It can be used, if it is the known one."""
        if not isinstance(self._error, StoreChanged):
            self._up()

    def recognised(self) -> None:
        """It is the known one."""
        if isinstance(self._error, StoreChanged):
            self._up()

    def attempt_failed(self, error: StoreError) -> None:
        """An attempt ended with this error. It counts, unless the store failed, which has counted by then."""
        if error is not self._error and not is_outage(error):
            self.metrics.store_errors.labels(error.code).inc(1, logs.exemplar())

    def _up(self) -> None:
        if self.down_since:
            logs.logger().info("the store answers again", seconds=round(self._clock() - self.down_since))
        self._error, self.problem, self.down_since = None, "", 0.0
        self._tell()

    def _tell(self) -> None:
        self.metrics.store_up.set(0 if self.problem else 1)
        self.metrics.store_down_since.set(self.down_since)


class ObservedStore:
    def __init__(self, store: ObjectStore, health: StoreHealth) -> None:
        self._inner, self._health = store, health

    @contextmanager
    def _asking(self, source: Source | None = None) -> Iterator[None]:
        """Around one operation. What fails as ``source`` cannot be read says nothing of the store."""
        try:
            yield
        except StoreError as error:
            if getattr(source, "problem", None) is None:
                if is_outage(error):
                    self._health.failed(error)
                elif not isinstance(error, StoreDenied):
                    # Credentials that are missing are missed here already.
                    self._health.answered()
            raise
        self._health.answered()

    @property
    def address(self) -> str:
        return self._inner.address

    async def check(self) -> None:
        try:
            await self._inner.check()
        except StoreError as error:
            # Whatever it is, nothing can be found there.
            self._health.failed(error)
            raise
        self._health.listed()

    async def recognise(self, key: str, is_known: Callable[[bytes | None], bool]) -> bytes | None:
        with self._asking():
            return await self._inner.recognise(key, is_known)

    async def now(self) -> StoreTime | None:
        with self._asking():
            return await self._inner.now()

    async def wants_md5(self) -> bool:
        return await self._inner.wants_md5()

    async def capabilities(self) -> Capabilities | None:
        return await self._inner.capabilities()

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
        with self._asking(body):
            return await self._inner.put(
                key, body, size=size, checksum=checksum, if_absent=if_absent, storage_class=storage_class
            )

    async def head(self, key: str) -> ObjectInfo | None:
        with self._asking():
            return await self._inner.head(key)

    async def read(self, key: str, *, limit: int = 1 << 20) -> bytes:
        with self._asking():
            return await self._inner.read(key, limit=limit)

    async def open(self, key: str, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        with self._asking():
            async with aclosing(self._inner.open(key, start, end)) as pieces:
                async for piece in pieces:
                    yield piece

    async def fetch_into(
        self, key: str, file: int, *, start: int = 0, end: int | None = None, seen: Seen = unseen
    ) -> None:
        with self._asking():
            await self._inner.fetch_into(key, file, start=start, end=end, seen=seen)

    async def list(self, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        with self._asking():
            async for info in self._inner.list(prefix):
                yield info

    async def retrieve(self, key: str, *, days: int, tier: str) -> None:
        with self._asking():
            await self._inner.retrieve(key, days=days, tier=tier)

    async def change_class(self, key: str, storage_class: str, *, size: int, checksum: Checksum) -> None:
        with self._asking():
            await self._inner.change_class(key, storage_class, size=size, checksum=checksum)

    async def delete(self, keys: Sequence[str]) -> None:
        if keys:
            with self._asking():
                await self._inner.delete(keys)

    async def remove_stale_uploads(
        self, older_than: float, ours: Callable[[str], bool] = lambda _: True, begun: Sequence[str] = ()
    ) -> int:
        # A server that does not list them is not always asked, so that an answer of none tells nothing.
        return await self._inner.remove_stale_uploads(older_than, ours, begun)
