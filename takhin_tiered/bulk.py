"""Bytes of a file onto a connection, moved by the kernel in a thread, while the event loop does other work.

Past whatever library speaks the protocol, over a duplicate of its socket. Only for connections in the clear: with TLS
the bytes have to go through it.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
from contextlib import suppress
from typing import Any, NamedTuple

from takhin_tiered.concurrency import in_bulk_thread

WORTH_IT = 256 << 10
_AT_ONCE = 4 << 20
_TURN_SECONDS = 0.02


class FileRange(NamedTuple):
    """A piece of a file, by its descriptor, which goes out without passing through this process."""

    file: int
    start: int
    size: int


class _Stalled(TimeoutError):
    """The other side takes nothing more for now."""

    def __init__(self, sent: int, patience: float) -> None:
        super().__init__(f"nothing was taken for {patience:g} s")
        self.sent = sent


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
    return await in_bulk_thread(lambda: cut(connection), _send, connection, file, offset, size, patience)


async def send_by_turns(connection: socket.socket, file: int, offset: int, size: int, *, patience: float) -> int:
    """The same to one of many who may be slow: no thread waits for it. What was written before must be gone.

    `TimeoutError` where the other side takes nothing for ``patience`` seconds.
    """
    sent = 0
    while sent < size:
        at, turn = offset + sent, min(size - sent, _AT_ONCE)
        try:
            count = await in_bulk_thread(lambda: cut(connection), _send, connection, file, at, turn, _TURN_SECONDS)
        except _Stalled as stalled:
            sent += stalled.sent
            await _writable(connection, patience)
            continue
        sent += count
        if count < turn:
            break
    return sent


async def _writable(connection: socket.socket, patience: float) -> None:
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    loop.add_writer(connection.fileno(), ready.set)
    try:
        async with asyncio.timeout(patience):
            await ready.wait()
    except TimeoutError:
        raise TimeoutError(f"nothing was taken for {patience:g} s") from None
    finally:
        loop.remove_writer(connection.fileno())


def cut(connection: socket.socket) -> None:
    """Nobody wants the rest: whoever waits in a thread gets an error now."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _send(connection: socket.socket, file: int, offset: int, size: int, patience: float) -> int:
    sent, to = 0, connection.fileno()
    poller = select.poll()
    poller.register(to, select.POLLOUT)
    while sent < size:
        try:
            count = os.sendfile(to, file, offset + sent, min(size - sent, _AT_ONCE))
        except BlockingIOError:
            if not poller.poll(patience * 1000):
                raise _Stalled(sent, patience) from None
            continue
        if not count:
            break
        sent += count
    return sent
