"""Logs that are made of parts of other archived logs: which archived bytes are a local log.

Nothing but bytes decides: from the first batch on, the archived ones must be the local ones, each byte of each
batch. So a log that was truncated and written anew, damage, and a batch that is missing all show.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from takhin_tiered.codec.checksums import Hasher
from takhin_tiered.codec.keys import KeyRing
from takhin_tiered.concurrency import in_thread
from takhin_tiered.errors import ObjectCorrupt, ObjectMissing
from takhin_tiered.formats.frames import LARGEST_HEAD, parse_frame, seek_frame
from takhin_tiered.formats.index import parse_offset_index
from takhin_tiered.segments.manifest import Manifest
from takhin_tiered.segments.names import FileKind, SegmentId
from takhin_tiered.segments.splice import Part
from takhin_tiered.store import ReadableStore
from takhin_tiered.vault.plain import Came, PlainFile, Take
from takhin_tiered.vault.proof import load_manifest, log_of

_WINDOW = 1 << 20


class NoMatchError(Exception):
    """The archive does not have the bytes of the log. The message says why, and completes a sentence about it."""


@dataclass(frozen=True, slots=True)
class LocalLog:
    """A log on the disk. ``read`` gives bytes from an offset on, and blocks."""

    size: int
    sha256: str
    part_size: int
    format: str
    read: Callable[[int, int], bytes]


class _Comparison:
    """Takes archived bytes, in order, and compares them with those of the local log. Blocking."""

    def __init__(self, local: LocalLog) -> None:
        self._local, self._hasher = local, Hasher(local.part_size)

    @property
    def missing(self) -> int:
        return self._local.size - self._hasher.size

    def take(self, piece: memoryview) -> None:
        at = self._hasher.size
        if self._local.read(at, len(piece)) != piece:
            raise NoMatchError(f"the archive has other bytes between {at} and {at + len(piece)} of it")
        self._hasher.update(piece)

    def require_whole(self) -> None:
        if self.missing:
            raise NoMatchError(f"the archive has only the first {self._hasher.size} of its {self._local.size} bytes")
        if self._hasher.checksum().sha256 != self._local.sha256:
            raise NoMatchError("it changed while it was compared")


@dataclass(frozen=True, slots=True)
class Matcher:
    """Looks for a local log in the archive. ``came`` is told of each piece that is downloaded for that."""

    store: ReadableStore
    keys: KeyRing
    came: Came

    async def match(self, local: LocalLog, run: Sequence[SegmentId]) -> tuple[Part, ...]:
        """The parts of the logs of archived segments, in order, that together are the local log.

        `NoMatchError` if they are not, `ObjectCorrupt` where the archive is damaged, `NoKey`, `WrongKey`, `StoreError`.
        """
        head = parse_frame(await in_thread(local.read, 0, LARGEST_HEAD), 0, local.format)
        if head is None:
            raise NoMatchError("it does not begin with a batch")
        comparison, parts = _Comparison(local), list[Part]()
        for identity in run:
            manifest = await load_manifest(self.store, identity)
            if manifest is None or manifest.log.parts or manifest.problem or manifest.format != local.format:
                raise NoMatchError(f"{identity.full_path} in the archive is no whole log of its format")
            log = PlainFile(self.store, manifest, FileKind.LOG, self.keys)
            start = 0 if parts else await self._position(manifest, log, head.base_offset)
            end = min(log.size, start + comparison.missing)
            if start < end:
                await log.read(start, end, comparison.take, self.came)
                parts.append(_part(manifest, start, end))
        comparison.require_whole()
        return tuple(parts)

    async def _position(self, manifest: Manifest, log: PlainFile, offset: int) -> int:
        """Where the batch with this base offset begins in an archived log. `NoMatchError` if none has it."""
        likely = await self._likely_position(manifest, offset)
        # An index may mislead: then the log is looked through from its beginning.
        for position in (likely, 0) if likely else (0,):
            found = await self._walk(log, position, offset, manifest.format)
            if found is not None:
                return found
        raise NoMatchError(f"no batch of {manifest.id.full_path} in the archive begins at offset {offset}")

    async def _likely_position(self, manifest: Manifest, offset: int) -> int:
        if FileKind.INDEX not in manifest.files or manifest.id.base_offset == offset:
            return 0
        try:
            data = await PlainFile(self.store, manifest, FileKind.INDEX, self.keys).read_whole(self.came)
        except (ObjectCorrupt, ObjectMissing):
            # It only helps.
            return 0
        index = parse_offset_index(data, manifest.format, manifest.id.base_offset, manifest.log.plain_size)
        return index.span(offset).start

    async def _walk(self, log: PlainFile, position: int, offset: int, log_format: str) -> int | None:
        """From one batch to the next; None if none begins at that offset, or if no batch stands at ``position``."""
        while position < log.size:
            window = bytearray()
            await log.read(position, min(log.size, position + _WINDOW), window.extend, self.came)
            found = seek_frame(window, position, offset, log_format)
            if found is None or found.is_found:
                return None if found is None else found.position
            if found.position == position:
                # What is left is shorter than a header.
                return None
            position = found.position
        return None


def _part(manifest: Manifest, start: int, end: int) -> Part:
    file = manifest.log
    return Part(manifest.id, file.key, file.plain_size, file.plain_sha256, file.plain_part_size, start, end)


async def sources_of(store: ReadableStore, manifest: Manifest, keys: KeyRing) -> tuple[PlainFile, ...]:
    """The log that each part of a spliced one is of. `NoKey` and `WrongKey`, and what `log_of` raises."""
    return tuple([PlainFile(store, await log_of(store, part), FileKind.LOG, keys) for part in manifest.log.parts])


async def read_spliced(parts: Sequence[Part], sources: Sequence[PlainFile], take: Take, came: Came) -> None:
    """All bytes of a spliced log, in order; see `PlainFile.read`."""
    for part, source in zip(parts, sources, strict=True):
        await source.read(part.start, part.end, take, came)
