"""Bulk bytes between a file and a connection, moved by the kernel in a thread, while the event loop does other work.

The HTTP library speaks the protocol; between the headers and the end of a large body it is passed by, over
a duplicate of its socket. Only for connections in the clear: with TLS the bytes have to go through it.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from takhin_tiered.codec.checksums import READ_SIZE
from takhin_tiered.concurrency import in_bulk_thread, in_thread

WORTH_IT = 256 << 10
_BUFFER = 256 << 10
_SEND_AT_ONCE = 4 << 20


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds. A whole operation may take ``base`` and its bytes at ``slowest`` bytes a second."""

    connect: float = 5.0
    read: float = 30.0
    base: float = 90.0
    slowest: float = 1 << 20

    def operation(self, size: int) -> float:
        return self.base + size / self.slowest


Sink = Callable[[memoryview], None]
"""Takes bytes in order, in a thread; the view is good only during the call."""

Hand = Callable[[Sink, memoryview], Awaitable[None]]
"""Gives a piece to a sink: `in_thread`, or `at_once` where the sink blocks nobody."""


async def at_once(sink: Sink, piece: memoryview) -> None:
    sink(piece)


def bare_socket(transport: Any) -> socket.socket | None:
    """A duplicate of the connection's socket, to be closed by the caller; None where there is TLS on it."""
    if transport is None or transport.is_closing() or transport.get_extra_info("sslcontext") is not None:
        return None
    connected = transport.get_extra_info("socket")
    return None if connected is None else socket.socket(fileno=os.dup(connected.fileno()))


async def send(transport: Any, connection: socket.socket, file: int, offset: int, size: int, *, patience: float) -> int:
    """Send a piece of a file; returns how many bytes went, less than ``size`` only where the file ends early.

    `TimeoutError` where the other side takes nothing for ``patience`` seconds; `OSError` from file or socket.
    """
    while transport.get_write_buffer_size():  # noqa: ASYNC110 - a transport has no event for it
        # What was written before must be on its way: it is a few hundred bytes of headers.
        await asyncio.sleep(0)
    return await in_bulk_thread(lambda: _cut(connection), _send, connection, file, offset, size, patience)


async def take_body(body: Any, length: int, sink: Sink, patience: float, hand: Hand = in_thread) -> None:
    """An answer's body to its end; a large one past the HTTP library, whose connection is of no use after that."""
    async with body:
        is_large = body.connection is not None and length >= WORTH_IT
        connection = bare_socket(body.connection.transport) if is_large else None
        if connection is None:
            while piece := await read_piece(body, patience):
                await hand(sink, memoryview(piece))
            return
        with connection:
            try:
                # Making room lets the library take in more at once, perhaps all: then it has let go of the connection.
                arrived = b""
                while piece := body.content.read_nowait(-1):
                    arrived += piece
                if body.connection is not None:
                    # From here on nobody else reads from it.
                    body.connection.transport.pause_reading()
                elif len(arrived) < length:
                    raise ConnectionResetError(f"the connection ended {length - len(arrived)} bytes early")
                if arrived:
                    await in_thread(sink, memoryview(arrived))
                await receive(connection, sink, length - len(arrived), patience)
            finally:
                body.close()


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
    await in_bulk_thread(lambda: _cut(connection), _receive, connection, sink, size, patience)


def _cut(connection: socket.socket) -> None:
    """Nobody wants the rest: whoever waits in a thread gets an error now."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _send(connection: socket.socket, file: int, offset: int, size: int, patience: float) -> int:
    sent, to = 0, connection.fileno()
    poller = select.poll()
    poller.register(to, select.POLLOUT)
    while sent < size:
        try:
            count = os.sendfile(to, file, offset + sent, min(size - sent, _SEND_AT_ONCE))
        except BlockingIOError:
            if not poller.poll(patience * 1000):
                raise TimeoutError(f"nothing was taken for {patience:g} s") from None
            continue
        if not count:
            break
        sent += count
    return sent


def _receive(connection: socket.socket, sink: Sink, size: int, patience: float) -> None:
    buffer = memoryview(bytearray(min(size, _BUFFER)))
    poller = select.poll()
    poller.register(connection.fileno(), select.POLLIN)
    left = size
    while left:
        room, filled = buffer[: min(left, len(buffer))], 0
        while filled < len(room):
            try:
                count = connection.recv_into(room[filled:])
            except BlockingIOError:
                if not poller.poll(patience * 1000):
                    raise TimeoutError(f"nothing came for {patience:g} s") from None
                continue
            if not count:
                sink(room[:filled])
                raise ConnectionResetError(f"the connection ended {left - filled} bytes early")
            filled += count
        sink(room)
        left -= filled
