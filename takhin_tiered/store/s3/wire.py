"""Large bodies of answers, received in a thread, while the event loop does other work.

The HTTP library speaks the protocol; between the headers and the end of a large body it is passed by, over
a duplicate of its socket, as `bulk` does it for what is sent.
"""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

from takhin_tiered import bulk
from takhin_tiered.codec.checksums import READ_SIZE
from takhin_tiered.concurrency import in_bulk_thread, in_thread

_BUFFER = 1 << 20
"""With 256 KiB, a read of a partition in place takes a tenth longer."""


Sink = Callable[[memoryview], None]
"""Takes bytes in order, in a thread; the view is good only during the call."""

Hand = Callable[[Sink, memoryview], Awaitable[None]]
"""Gives a piece to a sink: `in_thread`, or `at_once` where the sink blocks nobody."""


async def at_once(sink: Sink, piece: memoryview) -> None:
    sink(piece)


async def take_body(body: Any, length: int, sink: Sink, patience: float, hand: Hand = in_thread) -> None:
    """An answer's body to its end; a large one past the HTTP library, whose connection is of no use after that."""
    async with body:
        connection = _connection_of(body, length)
        if connection is None:
            while piece := await read_piece(body, patience):
                await hand(sink, memoryview(piece))
            return
        with connection:
            try:
                if arrived := _take_over(body, length):
                    await in_thread(sink, memoryview(arrived))
                await receive(connection, sink, length - len(arrived), patience)
            finally:
                body.close()


async def pieces_of(body: Any, length: int, patience: float) -> AsyncGenerator[bytes, None]:
    """As `take_body`, for a reader who says when: in pieces of at most `READ_SIZE`."""
    async with body:
        connection = _connection_of(body, length)
        if connection is None:
            while piece := await read_piece(body, patience):
                yield piece
            return
        with connection:
            try:
                if arrived := _take_over(body, length):
                    yield arrived
                left = length - len(arrived)
                while left:
                    size = min(left, READ_SIZE)
                    piece = await in_bulk_thread(
                        lambda: bulk.cut(connection), _receive_piece, connection, size, patience
                    )
                    left -= len(piece)
                    yield piece
            finally:
                body.close()


def _connection_of(body: Any, length: int) -> socket.socket | None:
    """That on which a large body comes; None where it is left to the HTTP library."""
    is_large = body.connection is not None and length >= bulk.WORTH_IT
    return bulk.bare_socket(body.connection.transport) if is_large else None


def _take_over(body: Any, length: int) -> bytes:
    """What has come of a body already; the rest stays on the connection, from which nobody else reads any more."""
    # Making room lets the library take in more at once, perhaps all: then it has let go of the connection.
    arrived = b""
    while piece := body.content.read_nowait(-1):
        arrived += piece
    if body.connection is not None:
        body.connection.transport.pause_reading()
    elif len(arrived) < length:
        raise ConnectionResetError(f"the connection ended {length - len(arrived)} bytes early")
    return arrived


async def read_piece(body: Any, patience: float) -> bytes:
    """A piece worth a thread's while: what has arrived, gathered up to `READ_SIZE`; empty at the end."""
    pieces: list[bytes] = []
    got = 0
    async with asyncio.timeout(patience):
        while got < READ_SIZE and (piece := await body.read(READ_SIZE - got)):
            pieces.append(piece)
            got += len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


async def receive(connection: socket.socket, sink: Sink, size: int, patience: float) -> None:
    """Take ``size`` bytes. `TimeoutError` where nothing comes for ``patience`` seconds; `OSError` where it breaks off.

    What ``sink`` raises goes up.
    """
    await in_bulk_thread(lambda: bulk.cut(connection), _receive, connection, sink, size, patience)


def _receive(connection: socket.socket, sink: Sink, size: int, patience: float) -> None:
    buffer = memoryview(bytearray(min(size, _BUFFER)))
    left = size
    while left:
        room = buffer[: min(left, len(buffer))]
        filled = _fill(connection, room, patience)
        sink(room[:filled])
        left -= filled
        if filled < len(room):
            raise ConnectionResetError(f"the connection ended {left} bytes early")


def _receive_piece(connection: socket.socket, size: int, patience: float) -> bytes:
    """As many bytes, fewer where the connection ends."""
    room = memoryview(bytearray(size))
    filled = _fill(connection, room, patience)
    if not filled:
        raise ConnectionResetError("the connection ended early")
    return bytes(room[:filled])


def _fill(connection: socket.socket, room: memoryview, patience: float) -> int:
    """How many bytes came: fewer than there is room for where the connection ends."""
    filled = 0
    poller = select.poll()
    poller.register(connection.fileno(), select.POLLIN)
    while filled < len(room):
        try:
            count = connection.recv_into(room[filled:])
        except BlockingIOError:
            if not poller.poll(patience * 1000):
                raise TimeoutError(f"nothing came for {patience:g} s") from None
            continue
        if not count:
            break
        filled += count
    return filled
