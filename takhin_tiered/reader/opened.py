"""A segment that is open for reading, in the archive or on the disk: one of both, from its first byte to its last."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

from takhin_tiered.disk.files import OpenFile
from takhin_tiered.errors import RangeNotSatisfiable
from takhin_tiered.reader.archived import Proof
from takhin_tiered.reader.local import LocalFile, LocalSegment
from takhin_tiered.reader.source import SegmentFile, SegmentSource
from takhin_tiered.reader.spliced import SplicedReader
from takhin_tiered.reader.window import ArchivedReader
from takhin_tiered.segments.manifest import Manifest
from takhin_tiered.segments.names import FileKind, SegmentId


class OpenedFile(SegmentFile, Protocol):
    @property
    def proof(self) -> Proof: ...

    def pieces(self, start: int, end: int) -> AsyncGenerator[bytes, None]:
        """The same as `read`, in small pieces."""
        ...


class OpenedSegment(SegmentSource, Protocol):
    """A `SegmentSource`, with what a face tells of a file: its tag, and when it was modified."""

    @property
    def variant(self) -> str:
        """Another one for other files beside the log, of those that may differ while the log is the same."""
        ...

    def file(self, kind: FileKind) -> OpenedFile | None:
        """`NoKey` or `WrongKey` if it cannot be decrypted."""
        ...

    async def tag(self, kind: FileKind) -> str:
        """Another one for other bytes: of the SHA-256, or of what the file system tells."""
        ...

    def modified(self, kind: FileKind) -> float:
        """In seconds since the epoch."""
        ...


@dataclass(frozen=True, slots=True)
class ArchivedSegment:
    manifest: Manifest
    make: Callable[[FileKind], ArchivedReader | SplicedReader]
    _made: dict[FileKind, ArchivedReader | SplicedReader] = field(default_factory=dict)

    @property
    def id(self) -> SegmentId:
        return self.manifest.id

    @property
    def format(self) -> str:
        return "" if self.manifest.format == "unknown" else self.manifest.format

    @property
    def first_offset(self) -> int | None:
        return self.manifest.first_offset

    @property
    def last_offset(self) -> int | None:
        return self.manifest.last_offset

    @property
    def open_transactions(self) -> tuple[tuple[int, int], ...] | None:
        return self.manifest.open_transactions

    @property
    def variant(self) -> str:
        return "".join(f"{kind}-{file.plain_sha256} " for kind, file in self.manifest.files.items())

    def file(self, kind: FileKind) -> OpenedFile | None:
        if kind not in self.manifest.files:
            return None
        if kind not in self._made:
            self._made[kind] = self.make(kind)
        return self._made[kind]

    async def tag(self, kind: FileKind) -> str:
        return tag_of(self.manifest, kind)

    def modified(self, kind: FileKind) -> float:
        return self.manifest.files[kind].mtime_ns / 1e9

    def close(self) -> None:
        for reader in self._made.values():
            reader.close()


@dataclass(frozen=True, slots=True)
class LocalOpened:
    """``manifest_of`` returns the manifest if a file with this status is known to be the archived one."""

    id: SegmentId
    local: LocalSegment
    grows: bool
    manifest_of: Callable[[FileKind, OpenFile], Awaitable[Manifest | None]]
    format: str = ""
    first_offset: int | None = None
    last_offset: int | None = None
    open_transactions: tuple[tuple[int, int], ...] | None = None

    @property
    def variant(self) -> str:
        return "".join(
            f"{kind}-{file.found.size:x}-{file.found.mtime_ns:x} " for kind, file in self.local.files.items()
        )

    def file(self, kind: FileKind) -> LocalFile | None:
        opened = self.local.files.get(kind)
        return None if opened is None else LocalFile(self.id, opened, grows=self.grows)

    async def tag(self, kind: FileKind) -> str:
        """That of the archived file, if this is the same: a client may go on when the segment was evicted meanwhile."""
        opened, file = self.local.files[kind], self.file(kind)
        assert file is not None
        manifest = await self.manifest_of(kind, opened)
        archived = manifest.files.get(kind) if manifest is not None else None
        if manifest is None or archived is None or archived.plain_size != file.size:
            return file.tag
        return tag_of(manifest, kind)

    def modified(self, kind: FileKind) -> float:
        return self.local.files[kind].found.mtime_ns / 1e9


def tag_of(manifest: Manifest, kind: FileKind) -> str:
    file = manifest.files[kind]
    part = f"-{file.plain_part_size}" if file.plain_part_size else ""
    return f"{file.plain_sha256}{part}"


def _nobody(_: int) -> None:
    """Nobody wants to know."""


@dataclass(frozen=True, slots=True)
class OpenRange:
    """Bytes ``start`` to ``end`` (exclusive) of a file of ``size`` bytes.

    ::

        async with storage.open_range(path, 0, 1000) as opened:
            async for piece in opened:
                ...

    ``proof`` is what proves them. ``tag`` is another one for other bytes; ``modified`` is in seconds since the epoch.
    """

    id: SegmentId
    kind: FileKind
    size: int
    proof: Proof
    tag: str
    modified: float
    start: int
    end: int
    _file: OpenedFile = field(repr=False)
    told: Callable[[int], None] = field(default=_nobody, repr=False)
    """Is called with the number of bytes that are about to be read."""

    def __aiter__(self) -> AsyncGenerator[bytes, None]:
        return self.pieces(self.start, self.end)

    def pieces(self, start: int, end: int) -> AsyncGenerator[bytes, None]:
        """Other bytes of the same file."""
        self.told(end - start)
        return self._file.pieces(start, end)

    async def read(self) -> bytes:
        """All of it, in memory."""
        self.told(self.end - self.start)
        return await self._file.read(self.start, self.end)


async def range_of(segment: OpenedSegment, file: OpenedFile, kind: FileKind, start: int, end: int | None) -> OpenRange:
    """`RangeNotSatisfiable` if it begins behind the end; one that ends behind it is shorter."""
    size = file.size
    if not 0 <= start <= size or (end is not None and end < start):
        raise RangeNotSatisfiable(
            f"{segment.id.directory}/{segment.id.file(kind)} has {size} bytes: there are none from {start} to {end}",
            segment=segment.id.path,
            size=size,
        )
    tag, modified = await segment.tag(kind), segment.modified(kind)
    until = size if end is None else min(end, size)
    return OpenRange(segment.id, kind, size, file.proof, tag, modified, start, until, file)
