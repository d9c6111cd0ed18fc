"""A server that is far away: what goes to it waits, and then comes as it is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

_PIECE = 1 << 16


@asynccontextmanager
async def delayed(upstream: str, seconds: float) -> AsyncIterator[str]:
    """Each request waits so long, those on different connections side by side; yields the endpoint."""
    parts = urlsplit(upstream)
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection(parts.hostname, parts.port)
        with suppress(OSError):
            await asyncio.gather(
                _pass(reader, there_writer, seconds), _pass(there_reader, writer, 0.0), return_exceptions=True
            )

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        left = list(tasks)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float) -> None:
    try:
        while piece := await reader.read(_PIECE):
            await asyncio.sleep(seconds)
            writer.write(piece)
            await writer.drain()
    finally:
        writer.close()
