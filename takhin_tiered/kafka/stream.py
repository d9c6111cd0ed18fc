"""One connection's bytes, both ways, with bounds: on what is kept of what comes, and on how long anything waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from takhin_tiered import bulk

_KEPT = 64 << 10
"""Of what comes before it is asked for: a client may send its next requests before it has the answers."""


class Stream(asyncio.Protocol):
    """``begin`` is called once the connection stands (with TLS, after its handshake), ``end`` when the client has
    ended it: it gets no more answers then.
    """

    def __init__(self, begin: Callable[[Stream], None], end: Callable[[Stream], None], patience: float) -> None:
        self._begin, self._end, self._patience = begin, end, patience
        self._kept = bytearray()
        self._arrived = asyncio.Event()
        self._taken = asyncio.Event()
        self._taken.set()
        self._is_paused = self._has_ended = False
        self._transport: Any = None

    # The event loop calls these.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        # What is written is gone before anything else is: no connection keeps more than one piece. The TLS of uvloop
        # takes 0 for always full.
        self._transport.set_write_buffer_limits(high=1 if self.is_encrypted else 0, low=0)
        self._begin(self)

    def data_received(self, data: bytes) -> None:
        self._kept += data
        if len(self._kept) > _KEPT and not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()
        self._arrived.set()

    def eof_received(self) -> bool:
        self._finish()
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._finish()

    def pause_writing(self) -> None:
        self._taken.clear()

    def resume_writing(self) -> None:
        self._taken.set()

    def _finish(self) -> None:
        if not self._has_ended:
            self._has_ended = True
            self._arrived.set()
            self._taken.set()
            self._end(self)

    @property
    def is_encrypted(self) -> bool:
        return self._transport.get_extra_info("sslcontext") is not None

    @property
    def peer(self) -> str:
        return str((self._transport.get_extra_info("peername") or ("",))[0])

    @property
    def local(self) -> tuple[str, int]:
        host, port = (self._transport.get_extra_info("sockname") or ("", 0))[:2]
        return str(host), int(port)

    async def read_into(self, room: memoryview) -> None:
        """Fill it. `ConnectionResetError` where the client ends before."""
        filled = 0
        while filled < len(room):
            if not self._kept:
                if self._has_ended:
                    raise ConnectionResetError("the client ended the connection")
                self._arrived.clear()
                await self._arrived.wait()
                continue
            piece = self._kept[: len(room) - filled]
            room[filled : filled + len(piece)] = piece
            del self._kept[: len(piece)]
            filled += len(piece)
            if self._is_paused and len(self._kept) <= _KEPT // 2 and not self._transport.is_closing():
                self._is_paused = False
                self._transport.resume_reading()

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Until all of it is on its way. `TimeoutError` where the client takes nothing for too long."""
        if self._has_ended or self._transport.is_closing():
            raise ConnectionResetError("the client ended the connection")
        self._transport.write(data)
        while not self._taken.is_set():
            before = self._transport.get_write_buffer_size()
            try:
                async with asyncio.timeout(self._patience):
                    await self._taken.wait()
            except TimeoutError:
                if self._transport.get_write_buffer_size() == before:
                    raise TimeoutError(f"nothing was taken for {self._patience:g} s") from None

    async def send_file(self, file: int, start: int, size: int) -> int:
        """As `bulk.send_by_turns`: only where the connection is not encrypted."""
        bare = bulk.bare_socket(self._transport)
        if bare is None:
            raise ConnectionResetError("the client ended the connection")
        with bare:
            return await bulk.send_by_turns(bare, file, start, size, patience=self._patience)

    def close(self, *, at_once: bool = False) -> None:
        """``at_once`` drops what was written and is not yet taken."""
        self._has_ended = True
        if at_once:
            self._transport.abort()
        else:
            self._transport.close()
