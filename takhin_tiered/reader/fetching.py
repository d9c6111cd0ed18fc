"""Chunks of archived files on their way into memory: from the disk cache, or from the store.

Chunks that are missing in a row come with one GET. Readers who want the same chunk share it. A GET that nobody waits
for any more is cancelled.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Protocol

from takhin_tiered.codec.chunks import ChunkCutter
from takhin_tiered.concurrency import in_thread
from takhin_tiered.cost.usage import Purpose
from takhin_tiered.errors import Damaged, ObjectMissing, StoreUnavailable, TakhinError
from takhin_tiered.machine import reuse_blocks
from takhin_tiered.metrics import Metrics
from takhin_tiered.pace import Pace
from takhin_tiered.reader.archived import ArchivedFile
from takhin_tiered.reader.memory import Chunk, ChunkName, Memory
from takhin_tiered.store import ReadableStore, counted_as

_REUSED = 16 << 20
"""More than a chunk: reading in order takes a twentieth less time than with blocks that are mapped anew."""
Numbered = tuple[int, Chunk]

OnDamage = Callable[[ArchivedFile, Damaged], Awaitable[TakhinError]]
"""Takes the consequences; returns the error for the readers."""


class StoredChunks(Protocol):
    """The disk cache. No method but `read` waits, and `read` for its file only."""

    def has(self, name: ChunkName, /) -> bool: ...

    async def read(self, name: ChunkName, /) -> bytes | None:
        """The stored bytes; None if they cannot be read, or are not the ones that were put there."""
        ...

    def offer(self, name: ChunkName, stored: bytes, is_scan: bool, /) -> None:
        """Keep these bytes, if there is time and room for it. ``is_scan``: their reader reads much, in order."""
        ...

    def drop(self, name: ChunkName, /) -> None: ...


class NoCache:
    """Of a process that does not hold the data directory's lock."""

    def has(self, _: ChunkName) -> bool:
        return False

    async def read(self, _: ChunkName) -> bytes | None:
        return None

    def offer(self, _: ChunkName, __: bytes, ___: bool) -> None:
        return

    def drop(self, _: ChunkName) -> None:
        return


class Fetcher:
    """What all readers share."""

    def __init__(
        self,
        store: ReadableStore,
        memory: Memory,
        cache: StoredChunks,
        *,
        metrics: Metrics,
        pace: Pace,
        on_damage: OnDamage,
    ) -> None:
        self.store, self.memory, self.cache = store, memory, cache
        self.metrics, self.pace, self.on_damage = metrics, pace, on_damage
        self.flights: set[asyncio.Task[None]] = set()
        self._has_begun = False
        # A descriptor of ``/dev/null``: bytes are looked at on their way to it.
        self.nothing = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)

    async def close(self) -> None:
        for task in self.flights:
            task.cancel()
        await asyncio.gather(*self.flights, return_exceptions=True)
        os.close(self.nothing)

    async def want(
        self, file: ArchivedFile, numbers: Sequence[int], *, patient: bool = True, is_scan: bool = False
    ) -> list[Chunk]:
        """Chunks in a row, as many of them as there is room for; the caller leaves each (`Memory.leave`).

        The first one waits for its room, unless the caller is not ``patient``. ``is_scan``: see `StoredChunks.offer`.
        """
        if not self._has_begun:
            self._has_begun = True
            reuse_blocks(_REUSED)
        joined: list[Chunk] = []
        new: list[Numbered] = []
        for number in numbers:
            name, room = (file.name, number), file.room(number)
            chunk = self.memory.find(name)
            if chunk is None:
                if joined or not patient:
                    if not self.memory.try_reserve(room):
                        break
                else:
                    await self.memory.reserve(room)
                    # Somebody else may have begun it meanwhile.
                    chunk = self.memory.find(name)
                    if chunk is not None:
                        self.memory.release(room)
            if chunk is None:
                chunk = self.memory.add(name, room)
                new.append((number, chunk))
            else:
                self.metrics.cache_hits.inc()
            joined.append(self.memory.join(chunk))
        for run, is_cached in self._runs(file, new):
            (self.metrics.cache_hits if is_cached else self.metrics.cache_misses).inc(len(run))
            _Flight(self, file, run, is_cached=is_cached, is_scan=is_scan)
        return joined

    def _runs(self, file: ArchivedFile, new: Sequence[Numbered]) -> list[tuple[list[Numbered], bool]]:
        """What comes together: each cached chunk by itself, and missing ones in a row."""
        runs: list[tuple[list[Numbered], bool]] = []
        for number, chunk in new:
            is_cached = self.cache.has((file.name, number))
            if not is_cached and runs and not runs[-1][1] and runs[-1][0][-1][0] == number - 1:
                runs[-1][0].append((number, chunk))
            else:
                runs.append(([(number, chunk)], is_cached))
        return runs


class _Flight:
    """Some chunks in a row that come together."""

    def __init__(
        self, fetcher: Fetcher, file: ArchivedFile, chunks: list[Numbered], *, is_cached: bool, is_scan: bool
    ) -> None:
        self._fetcher, self._file, self._chunks = fetcher, file, chunks
        self._is_cached, self._is_scan = is_cached, is_scan
        self._memory = fetcher.memory
        for _, chunk in chunks:
            chunk.on_left = self._left
        self._task = asyncio.create_task(self._run())
        fetcher.flights.add(self._task)
        self._task.add_done_callback(fetcher.flights.discard)

    def _left(self) -> None:
        missing = [chunk for _, chunk in self._chunks if not chunk.ready.is_set()]
        if not any(chunk.users for chunk in missing):
            # At once: whoever comes now begins anew.
            for chunk in missing:
                self._memory.drop(chunk)
            self._task.cancel()

    async def _run(self) -> None:
        error: BaseException = StoreUnavailable("the read was stopped")
        try:
            if self._is_cached and await self._take_from_cache():
                return
            damaged = await self._get(self._chunks)
            for number, chunk, found in damaged:
                # Bytes may also be damaged on the wire.
                if await self._get([(number, chunk)]):
                    self._memory.failed(chunk, await self._fetcher.on_damage(self._file, found))
        except ObjectMissing as missing:
            found = self._file.damaged("it is not in the archive")
            found.__cause__ = missing
            error = await self._fetcher.on_damage(self._file, found)
        except Exception as failure:  # noqa: BLE001 - whoever waits for a chunk gets it, whatever it is
            error = failure
        finally:
            for _, chunk in self._chunks:
                self._memory.failed(chunk, error)

    async def _take_from_cache(self) -> bool:
        ((number, chunk),) = self._chunks
        name = chunk.name
        stored = await self._fetcher.cache.read(name)
        if stored is not None:
            with suppress(Damaged):
                self._memory.arrived(chunk, await in_thread(self._file.decode, number, stored))
                return True
        self._fetcher.cache.drop(name)
        self._fetcher.metrics.cache_misses.inc()
        return False

    async def _get(self, chunks: Sequence[Numbered]) -> list[tuple[int, Chunk, Damaged]]:
        """One GET; returns the chunks that were not the archived ones."""
        file, fetcher, loop = self._file, self._fetcher, asyncio.get_running_loop()
        damaged: list[tuple[int, Chunk, Damaged]] = []

        def come(index: int, stored: bytes) -> None:
            number, chunk = chunks[index]
            try:
                plain = file.decode(number, stored)
            except Damaged as error:
                damaged.append((number, chunk, error))
            else:
                loop.call_soon_threadsafe(self._arrived, chunk, plain, stored)

        ranges = [file.stored_range(number) for number, _ in chunks]
        cutter = ChunkCutter([end - start for start, end in ranges], come)

        def take(piece: memoryview) -> None:
            fetcher.pace.spend_here(len(piece))
            fetcher.metrics.downloaded.inc(len(piece))
            cutter.update(piece)

        start, end = ranges[0][0], ranges[-1][1]
        with counted_as(Purpose.READ):
            await fetcher.store.fetch_into(file.key, fetcher.nothing, start=start, end=end, seen=take)
        # What came last is told to the loop, but may not have been heard yet.
        await asyncio.sleep(0)
        for number, chunk in chunks[cutter.complete :]:
            first, last = file.stored_range(number)
            why = f"it ends within chunk {number}, which is bytes {first} to {last} of it"
            damaged.append((number, chunk, file.damaged(why)))
        return damaged

    def _arrived(self, chunk: Chunk, plain: bytes, stored: bytes) -> None:
        self._fetcher.cache.offer(chunk.name, stored, self._is_scan)
        self._memory.arrived(chunk, plain)
