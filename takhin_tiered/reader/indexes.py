"""The indexes of segments, parsed and kept in memory."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from takhin_tiered.concurrency import in_thread
from takhin_tiered.errors import Damaged
from takhin_tiered.formats.detect import HEAD, detect
from takhin_tiered.formats.index import OffsetIndex, TimeIndex, parse_offset_index, parse_time_index
from takhin_tiered.formats.transactions import AbortedTransaction, ongoing, parse_aborted, parse_snapshot
from takhin_tiered.reader.source import SegmentSource
from takhin_tiered.segments.names import FileKind

Index = TypeVar("Index")
_PARSED_IN_PLACE = 256 << 10
"""Bytes of an index up to which a turn in a thread costs more than to parse it."""
_MOST_SEGMENTS = 4096
_UNDETECTED = {"", "unknown"}
"""Earlier releases knew fewer formats: where a manifest names none, the bytes are looked at again."""


class SegmentIndexes:
    """Of one segment, each read once, when it is asked for. Readers who ask at the same time share one read."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._format = ""
        self._offsets: OffsetIndex | None = None
        self._times: TimeIndex | None = None
        self._aborted: tuple[AbortedTransaction, ...] | None = None
        self._ongoing: dict[int, int] | None = None
        self._has_looked = False

    @property
    def size(self) -> int:
        """About how many bytes of memory it takes."""
        indexes = 16 * len(self._offsets or ()) + 24 * len(self._times or ())
        return 500 + indexes + 150 * (len(self._aborted or ()) + len(self._ongoing or ()))

    async def format(self, source: SegmentSource) -> str:
        """``kafka``, ``takhin``, ``empty`` or ``unknown``."""
        if source.format not in _UNDETECTED:
            return source.format
        async with self._lock:
            if not self._format:
                log = source.file(FileKind.LOG)
                size = log.size if log is not None else 0
                self._format = detect(await log.read(0, min(size, HEAD)) if log is not None and size else b"", size)
            return self._format

    async def offsets(self, source: SegmentSource) -> OffsetIndex:
        log_format = await self.format(source)
        async with self._lock:
            if self._offsets is None:
                log = source.file(FileKind.LOG)
                data, size = await _content(source, FileKind.INDEX), log.size if log is not None else 0
                self._offsets = await _parsed(
                    len(data), partial(parse_offset_index, data, log_format, source.id.base_offset, size)
                )
            return self._offsets

    async def times(self, source: SegmentSource) -> TimeIndex:
        log_format = await self.format(source)
        async with self._lock:
            if self._times is None:
                data = await _content(source, FileKind.TIMEINDEX)
                self._times = await _parsed(
                    len(data), partial(parse_time_index, data, log_format, source.id.base_offset)
                )
            return self._times

    async def aborted(self, source: SegmentSource) -> tuple[AbortedTransaction, ...]:
        """The aborted transactions whose markers are in this segment. `Damaged` if the file is malformed."""
        async with self._lock:
            if self._aborted is None:
                try:
                    self._aborted = parse_aborted(await _content(source, FileKind.TXNINDEX))
                except ValueError as error:
                    raise Damaged(
                        f"segment {source.id.path} is damaged: {error}",
                        segment=source.id.path,
                        hint="Without it nothing tells which records were aborted. read_uncommitted does not need it",
                    ) from error
            return self._aborted

    async def ongoing(self, source: SegmentSource) -> dict[int, int] | None:
        """The transactions that are open where this segment begins; None without a snapshot that can be read."""
        async with self._lock:
            if not self._has_looked:
                with suppress(ValueError):
                    data = await _content(source, FileKind.SNAPSHOT)
                    self._ongoing = ongoing(parse_snapshot(data))
                self._has_looked = True
            return self._ongoing


@dataclass(frozen=True, slots=True)
class SourceTransactions:
    """What a segment's transaction index, producer snapshot and manifest tell, as `Aborted` asks for it."""

    source: SegmentSource
    indexes: SegmentIndexes

    @property
    def still_open(self) -> tuple[tuple[int, int], ...] | None:
        return self.source.open_transactions

    async def aborted(self) -> tuple[AbortedTransaction, ...]:
        return await self.indexes.aborted(self.source)

    async def ongoing(self) -> dict[int, int] | None:
        return await self.indexes.ongoing(self.source)


class IndexCache:
    """Indexes by name, within a bound of memory; those not used for longest are dropped first.

    A name stands for bytes: another generation of a segment, or another local file, has another name.
    """

    def __init__(self, most_bytes: int = 64 << 20) -> None:
        self._most = most_bytes
        self._entries: OrderedDict[Hashable, SegmentIndexes] = OrderedDict()

    def of(self, name: Hashable) -> SegmentIndexes:
        found = self._entries.pop(name, None)
        if found is None:
            self._shrink()
            found = SegmentIndexes()
        self._entries[name] = found
        return found

    @property
    def size(self) -> int:
        return sum(entry.size for entry in self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)

    def _shrink(self) -> None:
        size = self.size
        while self._entries and (size > self._most or len(self._entries) >= _MOST_SEGMENTS):
            size -= self._entries.popitem(last=False)[1].size


async def _content(source: SegmentSource, kind: FileKind) -> bytes:
    file = source.file(kind)
    return await file.read(0, file.size) if file is not None and file.size else b""


async def _parsed(size: int, parse: Callable[[], Index]) -> Index:
    return parse() if size <= _PARSED_IN_PLACE else await in_thread(parse)
