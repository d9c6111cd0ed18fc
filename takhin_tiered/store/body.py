"""A request body that is read from a `Source`, or sent by the kernel where that is a file."""

from __future__ import annotations

import errno
from typing import Any

from aiohttp.abc import AbstractStreamWriter
from aiohttp.payload import Payload

from takhin_tiered.codec.checksums import READ_SIZE, Source
from takhin_tiered.concurrency import in_thread
from takhin_tiered.store import wire

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
        file = self._source.fileno() if hasattr(self._source, "fileno") else -1
        connection = wire.bare_socket(writer.transport) if file >= 0 and self._length >= wire.WORTH_IT else None
        if connection is None:
            await self._write_chunks(writer)
            return
        with connection:
            writer.send_headers()
            await writer.drain()
            await self._send_file(writer.transport, connection, file)
        await self._write_chunks(writer)

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        assert content_length in (None, self._length)
        await self.write(writer)

    async def _send_file(self, transport: Any, connection: Any, file: int) -> None:
        end = self._length - _TAIL
        while self._at < end:
            offset, left = self._start + self._at, end - self._at
            try:
                sent = await wire.send(transport, connection, file, offset, left, patience=self._patience)
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                sent = 0
            self._at += sent
            if sent < left:
                # The file is shorter than it was, or cannot be read: the source knows the words for it.
                await in_thread(self._source, offset + sent, left - sent)

    async def _write_chunks(self, writer: AbstractStreamWriter) -> None:
        while self._at < self._length:
            in_memory = getattr(self._source, "in_memory", False)
            chunk = self.read(READ_SIZE) if in_memory else await in_thread(self.read, READ_SIZE)
            if not chunk:
                return
            await writer.write(chunk)
