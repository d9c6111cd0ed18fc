"""The disk cache: chunks as the store has them, in files of their own, with an index beside them.

Readers never wait for it: a chunk is written behind them, and left out if the disk is busy, full or broken. What is
read from it is compared with its checksum. The bound is kept at every moment: room is made before a chunk is written.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from crc32c import crc32c

from takhin_tiered import logs
from takhin_tiered.concurrency import in_thread
from takhin_tiered.metrics import Metrics
from takhin_tiered.points import reached
from takhin_tiered.reader.cache_index import CacheIndex, Row
from takhin_tiered.reader.memory import ChunkName
from takhin_tiered.reader.slru import SegmentedLru

MOST_CHUNKS = 200_000
_BLOCK = 4096
_TEMP = ".tmp"
_QUEUE_BYTES = 16 << 20
_LOOK_SECONDS = 5.0
_PAUSE_SECONDS = 30.0
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_ERRORS = (OSError, sqlite3.Error)


@dataclass(slots=True)
class _Facts:
    """``used`` is the number of the use, over all chunks."""

    size: int
    crc: int
    used: int


class DiskCache:
    """``bound`` says how many bytes the chunks may have now, from how many they have."""

    def __init__(self, directory: Path, index: CacheIndex, bound: Callable[[int], int], metrics: Metrics) -> None:
        self._directory, self._index, self._bound, self._metrics = directory, index, bound, metrics
        self._lru: SegmentedLru[ChunkName] = SegmentedLru()
        self._facts: dict[ChunkName, _Facts] = {}
        self._uses = 0
        self._reading: Counter[ChunkName] = Counter()
        # To be written; and names of which the index has to be told.
        self._queue: deque[tuple[ChunkName, bytes]] = deque()
        self._queued: dict[ChunkName, int] = {}
        self._changed: set[ChunkName] = set()
        self._gone: set[ChunkName] = set()
        self._work = asyncio.Event()
        self._idle = asyncio.Event()
        # Room is made and used by one at a time.
        self._one_writes = asyncio.Lock()
        self._paused_until = 0.0

    @classmethod
    @asynccontextmanager
    async def open(cls, directory: Path, bound: Callable[[int], int], metrics: Metrics) -> AsyncIterator[DiskCache]:
        """`OSError` and `sqlite3.Error` if there can be no cache there."""
        await in_thread(directory.mkdir, mode=0o700, parents=True, exist_ok=True)
        index = await CacheIndex.open(directory)
        try:
            cache = cls(directory, index, bound, metrics)
            await cache._load()
            writer = asyncio.create_task(cache._write_behind())
            try:
                yield cache
            finally:
                writer.cancel()
                (ended,) = await asyncio.gather(writer, return_exceptions=True)
                with suppress(*_ERRORS):
                    await cache._tell_index()
                if isinstance(ended, Exception):
                    raise ended
        finally:
            with suppress(*_ERRORS):
                await index.close()

    @property
    def size(self) -> int:
        """Bytes of the disk that chunks take, in whole blocks."""
        return self._lru.size

    def _limit(self) -> int:
        return max(0, self._bound(self._lru.size))

    def has(self, name: ChunkName) -> bool:
        return name in self._lru

    async def read(self, name: ChunkName) -> bytes | None:
        """The stored bytes; None if they are not there, or not the ones that were written."""
        facts = self._facts.get(name)
        if facts is None:
            return None
        self._reading[name] += 1
        try:
            stored = await in_thread(_read, self._path(name), facts.size, facts.crc)
        except FileNotFoundError:
            # It had to make room at this moment.
            stored = None
        except OSError as error:
            logs.logger().warning("a chunk of the cache cannot be read", error=str(error))
            stored = None
        finally:
            self._reading[name] -= 1
            if not self._reading[name]:
                del self._reading[name]
        if stored is None:
            self.drop(name)
        elif name in self._lru:
            self._lru.hit(name, self._limit())
            self._uses += 1
            facts.used = self._uses
            self._changed.add(name)
        return stored

    def offer(self, name: ChunkName, stored: bytes, is_scan: bool) -> None:
        """Write it behind the reader's back, or not at all: of a scan only what was read not long ago."""
        if is_scan and name not in self._lru and not self._lru.has_left(name):
            self._lru.remember(name, _on_disk(len(stored)), self._limit())
            return
        if name in self._lru or name in self._queued or asyncio.get_running_loop().time() < self._paused_until:
            return
        if sum(self._queued.values()) + len(stored) > _QUEUE_BYTES:
            self._metrics.cache_skipped.inc()
            return
        self._queue.append((name, stored))
        self._queued[name] = len(stored)
        self._idle.clear()
        self._work.set()

    def drop(self, name: ChunkName) -> None:
        """It is not what it should be."""
        if self._lru.remove(name):
            self._forget([name])
            with suppress(OSError):
                self._path(name).unlink(missing_ok=True)

    async def written(self) -> None:
        """Return when nothing is left to be written."""
        if self._queue or self._queued:
            await self._idle.wait()

    async def give_way(self) -> None:
        """Unlink what its bound does not allow any more, now."""
        try:
            await self._shrink()
        except OSError as error:
            self._pause(error)

    async def get(self, name: str) -> tuple[int, ...] | None:
        """Checksums of an object that was proven as a whole; see `KnownChecksums`."""
        try:
            return await self._index.checksums(name)
        except sqlite3.Error as error:
            self._pause(error)
            return None

    async def put(self, name: str, checksums: tuple[int, ...]) -> None:
        try:
            await self._index.put_checksums(name, checksums)
        except sqlite3.Error as error:
            self._pause(error)

    def _path(self, name: ChunkName) -> Path:
        return self._directory / name[0][:2] / f"{name[0]}.{name[1]}"

    async def _load(self) -> None:
        """Rows and files as a kill may have left them: only what has both stays."""
        rows = {row.name: row for row in await self._index.rows()}
        there = await in_thread(_clean, self._directory, {self._path(name): row.size for name, row in rows.items()})
        limit = max(0, self._bound(sum(row.size for row in rows.values())))
        for name, row in rows.items():
            if self._path(name) in there:
                self._lru.add(name, _on_disk(row.size), limit, is_protected=row.is_protected)
                self._facts[name] = _Facts(row.size, row.crc, row.used)
                self._uses = max(self._uses, row.used)
            else:
                self._gone.add(name)
        await self._make_room(0)
        await self._tell_index()

    async def _write_behind(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._work.wait()
            self._work.clear()
            try:
                # Restored segments, whose leases end, and others' files take room too.
                await self._shrink()
                while self._queue:
                    name, stored = self._queue.popleft()
                    try:
                        async with self._one_writes:
                            await self._write(name, stored)
                    finally:
                        del self._queued[name]
                await self._tell_index()
            except _ERRORS as error:
                self._queue.clear()
                self._queued.clear()
                self._pause(error)
            if not self._queue:
                self._idle.set()

    async def _shrink(self) -> None:
        async with self._one_writes:
            await self._make_room(0)

    async def _write(self, name: ChunkName, stored: bytes) -> None:
        size = _on_disk(len(stored))
        if name in self._lru or not await self._make_room(size):
            self._metrics.cache_skipped.inc()
            return
        crc = await in_thread(_write, self._path(name), stored)
        self._lru.add(name, size, self._limit())
        self._uses += 1
        self._facts[name] = _Facts(len(stored), crc, self._uses)
        self._changed.add(name)
        self._gone.discard(name)
        self._metrics.cache_bytes.set(self._lru.size)

    async def _make_room(self, size: int) -> bool:
        """Unlink what has to leave, before so many bytes are written. False if there is no room for them."""
        limit = self._limit()
        victims = self._lru.victims(max(0, limit - size), lambda name: name not in self._reading)
        if victims is None or size > limit:
            if size:
                return False
            victims = [name for name in self._lru if name not in self._reading]
        if size and len(self._lru) - len(victims) >= MOST_CHUNKS:
            # Small ones take little of the disk, but each takes memory.
            victims += islice((name for name in self._lru if name not in {*victims, *self._reading}), 1)
        if victims:
            # They count until they are gone. One that is read meanwhile is not found, and fetched.
            await in_thread(_unlink, [self._path(name) for name in victims])
            for name in victims:
                self._lru.leave(name, limit)
            self._forget(victims)
        return True

    def _forget(self, names: Iterable[ChunkName]) -> None:
        for name in names:
            self._facts.pop(name, None)
            self._changed.discard(name)
            self._gone.add(name)
        self._metrics.cache_bytes.set(self._lru.size)
        self._work.set()

    async def _tell_index(self) -> None:
        gone, changed = self._gone, self._changed
        if not gone and not changed:
            return
        self._gone, self._changed = set(), set()
        rows = [
            Row(name, facts.size, facts.crc, self._lru.is_protected(name), facts.used)
            for name in changed
            if (facts := self._facts.get(name)) is not None
        ]
        reached("cache.writing")
        try:
            await self._index.write(gone, rows)
        except sqlite3.Error:
            self._gone |= gone - self._facts.keys()
            self._changed |= changed & self._facts.keys()
            raise
        reached("cache.written")

    def _pause(self, error: Exception) -> None:
        """A full or failing disk is left alone for a while. Reads go on without it."""
        self._paused_until = asyncio.get_running_loop().time() + _PAUSE_SECONDS
        logs.logger().warning("the disk cache cannot be written, and is not used for new chunks", error=str(error))


def _on_disk(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _read(path: Path, size: int, crc: int) -> bytes | None:
    fd = os.open(path, _READ)
    try:
        # One more than there should be.
        parts, left = [], size + 1
        while left and (part := os.read(fd, left)):
            parts.append(part)
            left -= len(part)
    finally:
        os.close(fd)
    stored = parts[0] if len(parts) == 1 else b"".join(parts)
    return stored if len(stored) == size and crc32c(stored) == crc else None


def _write(path: Path, stored: bytes) -> int:
    """Returns the CRC-32C."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    temp = path.with_name(path.name + _TEMP)
    temp.unlink(missing_ok=True)
    fd = os.open(temp, _CREATE, 0o600)
    try:
        view = memoryview(stored)
        while view:
            view = view[os.write(fd, view) :]
        reached("cache.temporary")
        temp.rename(path)
        reached("cache.renamed")
        return crc32c(stored)
    except BaseException:
        temp.unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)


def _unlink(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
        reached("cache.unlinked")


def _clean(directory: Path, expected: dict[Path, int]) -> set[Path]:
    """Remove files that nobody knows, or of another size; returns those that stay."""
    there: set[Path] = set()
    for folder in directory.iterdir():
        if not folder.is_dir() or folder.is_symlink():
            continue
        for path in folder.iterdir():
            if expected.get(path) == path.lstat().st_size and path.is_file() and not path.is_symlink():
                there.add(path)
            else:
                path.unlink()
    return there
