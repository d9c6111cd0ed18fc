"""A request body that is read from a `Source`."""

from __future__ import annotations

from collections.abc import AsyncIterator

from takhin_tiered.codec.checksums import READ_SIZE, Source
from takhin_tiered.concurrency import in_thread


class SourceBody:
    """As botocore and aiohttp want it: seekable for a retry, and read in large pieces in threads."""

    def __init__(self, source: Source, start: int, size: int) -> None:
        self._source, self._start, self._size = source, start, size
        self._at = 0

    def read(self, length: int = -1) -> bytes:
        left = self._size - self._at
        chunk = self._source(self._start + self._at, left if length < 0 else min(length, left)) if left else b""
        self._at += len(chunk)
        return chunk

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while self._at < self._size and (chunk := await in_thread(self.read, READ_SIZE)):
            yield chunk
