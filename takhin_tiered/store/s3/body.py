"""A request body that is read from a `Source`, or sent by the kernel where that is a file."""

from __future__ import annotations

import errno
from typing import Any

from aiohttp.abc import AbstractStreamWriter
from aiohttp.payload import Payload

from takhin_tiered import bulk
from takhin_tiered.codec.checksums import READ_SIZE, Source
from takhin_tiered.concurrency import in_thread

# Written by the HTTP library itself, so that the answer cannot come before it knows that all was sent: it closes
# a connection whose answer overtakes it.
_TAIL = 512


class SourceBody(Payload):
    """As botocore wants it: seekable for a retry; as aiohttp wants it: a payload that writes itself."""

    def __init__(self, source: Source, start: int, size: int, *, patience: float) -> None:
        super().__init__(source)
        self._source, self._start, self._length, self._patience = source, start, size, patience
        self._at = 0

    @property
    def size(self) -> int:
        return self._length

    def read(self, length: int = -1) -> bytes:
        left = self._length - self._at
        chunk = self._source(self._start + self._at, left if length < 0 else min(length, left)) if left else b""
        self._at += len(chunk)
        return chunk

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._length)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return self.read().decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        """All of it, whenever it is called: the HTTP library does so again where a connection was closed on it."""
        file = self._source.fileno() if hasattr(self._source, "fileno") else -1
        connection = bulk.bare_socket(writer.transport) if file >= 0 and self._length >= bulk.WORTH_IT else None
        if connection is None:
            await self._write_chunks(writer, 0)
            return
        with connection:
            writer.send_headers()
            await writer.drain()
            await self._send_file(writer.transport, connection, file)
        await self._write_chunks(writer, self._length - _TAIL)

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        assert content_length in (None, self._length)
        await self.write(writer)

    async def _send_file(self, transport: Any, connection: Any, file: int) -> None:
        at, end = 0, self._length - _TAIL
        while at < end:
            offset, left = self._start + at, end - at
            try:
                sent = await bulk.send(transport, connection, file, offset, left, patience=self._patience)
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                sent = 0
            at += sent
            if sent < left:
                # The file is shorter than it was, or cannot be read: the source knows the words for it.
                await in_thread(self._source, offset + sent, left - sent)

    async def _write_chunks(self, writer: AbstractStreamWriter, at: int) -> None:
        in_memory = getattr(self._source, "in_memory", False)
        while at < self._length:
            offset, length = self._start + at, min(READ_SIZE, self._length - at)
            chunk = self._source(offset, length) if in_memory else await in_thread(self._source, offset, length)
            if not chunk:
                return
            at += len(chunk)
            await writer.write(chunk)
