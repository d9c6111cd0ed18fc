"""The plain bytes of an archived file, in order: for who reads much of it, once. Bounded memory, and no cache."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from takhin_tiered.codec.chunks import ChunkCutter
from takhin_tiered.codec.keys import KeyRing
from takhin_tiered.errors import ObjectCorrupt
from takhin_tiered.segments.manifest import Manifest
from takhin_tiered.segments.names import FileKind
from takhin_tiered.store import ReadableStore
from takhin_tiered.vault.decoding import Decoder

Take = Callable[[memoryview], None]
"""Gets plain bytes, in order, in a thread; what it raises ends the read."""
Came = Callable[[int], None]
"""Is told of each piece how many stored bytes came, in a thread: it may slow the read down."""


class PlainFile:
    """One file of a segment. `NoKey` and `WrongKey` when it is made.

    Each chunk is proven by the manifest. A manifest of an earlier release proves none: then nothing does.
    """

    def __init__(self, store: ReadableStore, manifest: Manifest, kind: FileKind, keys: KeyRing) -> None:
        self._store = store
        self.id, self.file = manifest.id, manifest.files[kind]
        self._decoder = None if self.file.chunks is None else Decoder(manifest, kind, keys)

    @property
    def size(self) -> int:
        return self.file.plain_size

    async def read(self, start: int, end: int, take: Take, came: Came) -> None:
        """Bytes ``start`` to ``end`` (exclusive). `Damaged` or another `ObjectCorrupt`, and `StoreError`."""
        if start == end:
            return
        if self._decoder is None:
            await self._read_as_it_is(start, end, take, came)
        else:
            await self._read_chunks(self._decoder, start, end, take, came)

    async def _read_as_it_is(self, start: int, end: int, take: Take, came: Came) -> None:
        missing = end - start

        def see(piece: memoryview) -> None:
            nonlocal missing
            missing -= len(piece)
            came(len(piece))
            take(piece)

        await _fetch(self._store, self.file.key, start, end, see)
        if missing:
            raise ObjectCorrupt(
                f"object {self.file.key} ends before byte {end}", segment=self.id.path, key=self.file.key
            )

    async def _read_chunks(self, decoder: Decoder, start: int, end: int, take: Take, came: Came) -> None:
        numbers = decoder.chunks.holding(start, end)
        ranges = [decoder.chunks.stored_range(number, self.size) for number in numbers]

        def come(index: int, stored: bytes) -> None:
            first, _ = decoder.chunks.plain_range(numbers[index], self.size)
            plain = memoryview(decoder.decode(numbers[index], stored))
            take(plain[max(0, start - first) : end - first])

        cutter = ChunkCutter([last - first for first, last in ranges], come)

        def see(piece: memoryview) -> None:
            came(len(piece))
            cutter.update(piece)

        await _fetch(self._store, self.file.key, ranges[0][0], ranges[-1][1], see)
        if cutter.complete < len(numbers):
            raise decoder.damaged(numbers[cutter.complete], "the object ends within it")

    async def read_whole(self, came: Came) -> bytes:
        """All of it, in memory: for small files."""
        parts: list[bytes] = []
        await self.read(0, self.size, lambda piece: parts.append(bytes(piece)), came)
        return b"".join(parts)


async def _fetch(store: ReadableStore, key: str, start: int, end: int, see: Take) -> None:
    # Into nothing: what comes is looked at on the way.
    with Path(os.devnull).open("wb", buffering=0) as nothing:  # noqa: ASYNC230 - it never blocks
        await store.fetch_into(key, nothing.fileno(), start=start, end=end, seen=see)
