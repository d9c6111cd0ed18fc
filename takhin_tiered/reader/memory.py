"""Chunks in memory: shared by all readers, and bounded whatever their number.

A chunk that somebody uses stays. One that nobody uses stays until its room is needed. A reader whose own reader has
stalled loses its chunk where others wait for room, and fetches it again when it goes on: so slow clients cannot stop
the others.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable

STALLED_SECONDS = 1.0

ChunkName = tuple[str, int]
"""What names the bytes of an object, and the number of the chunk."""


class Chunk:
    """One chunk, on its way or there. ``plain`` is None before it has come, after a failure, and once it was dropped.

    ``users`` is the number of readers that hold it, ``resting`` of those that wait for their own reader.
    """

    __slots__ = ("error", "is_dropped", "name", "on_left", "plain", "ready", "resting", "room", "since", "users")

    def __init__(self, name: ChunkName, room: int) -> None:
        self.name, self.room = name, room
        self.plain: bytes | None = None
        self.error: BaseException | None = None
        self.ready = asyncio.Event()
        self.users = self.resting = 0
        self.since = 0.0
        self.is_dropped = False
        # Called when the last reader leaves before the chunk has come.
        self.on_left: Callable[[], None] = lambda: None

    async def wait(self) -> bytes:
        """Its plain bytes; raises why there are none."""
        await self.ready.wait()
        if self.error is not None:
            raise self.error
        assert self.plain is not None
        return self.plain


class Memory:
    """Room for chunks: ``limit`` bytes. One chunk that is larger than all of it may be there alone."""

    def __init__(self, limit: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit, self._clock = limit, clock
        self.used = 0
        # The least recently used one first.
        self._chunks: OrderedDict[ChunkName, Chunk] = OrderedDict()
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def find(self, name: ChunkName) -> Chunk | None:
        return self._chunks.get(name)

    async def reserve(self, size: int) -> None:
        """Return when there is room for so many bytes; they then count as used, until `add` or `release`."""
        size = min(size, self.limit)
        if not self._waiting and self._make_room(size):
            self.used += size
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((size, turn))
        self._serve()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release(size)
            else:
                self._waiting = deque(entry for entry in self._waiting if entry[1] is not turn)
                self._serve()
            raise

    def try_reserve(self, size: int) -> bool:
        """The same, if there is room now and nobody waits for it."""
        size = min(size, self.limit)
        if self._waiting or not self._make_room(size):
            return False
        self.used += size
        return True

    def release(self, size: int) -> None:
        self.used -= min(size, self.limit)
        self._serve()

    def add(self, name: ChunkName, room: int) -> Chunk:
        """A chunk that is about to come, in the room that was reserved for it."""
        assert name not in self._chunks
        chunk = self._chunks[name] = Chunk(name, min(room, self.limit))
        return chunk

    def arrived(self, chunk: Chunk, plain: bytes) -> None:
        """From now on it takes the room of its plain bytes only."""
        if chunk.is_dropped:
            return
        chunk.plain = plain
        surplus = chunk.room - min(chunk.room, len(plain))
        chunk.room -= surplus
        chunk.ready.set()
        self.release(surplus)

    def failed(self, chunk: Chunk, error: BaseException) -> None:
        """Whoever waits for it gets the error; the next one tries again."""
        if not chunk.ready.is_set():
            chunk.error = error
            chunk.ready.set()
            self.drop(chunk)

    def drop(self, chunk: Chunk) -> None:
        """Forget it: who still waits for it is told by `failed`, who uses it looks at ``is_dropped``."""
        if not chunk.is_dropped:
            chunk.is_dropped = True
            chunk.plain = None
            del self._chunks[chunk.name]
            self.release(chunk.room)

    def join(self, chunk: Chunk) -> Chunk:
        chunk.users += 1
        if not chunk.is_dropped:
            self._chunks.move_to_end(chunk.name)
        return chunk

    def leave(self, chunk: Chunk) -> None:
        chunk.users -= 1
        if not chunk.users:
            if not chunk.ready.is_set():
                chunk.on_left()
            self._serve()

    def rest(self, chunk: Chunk) -> None:
        """One of its users waits for its own reader, and can do without it."""
        chunk.resting += 1
        chunk.since = self._clock()
        if self._waiting:
            self._serve()

    def go_on(self, chunk: Chunk) -> None:
        chunk.resting -= 1

    def _make_room(self, size: int) -> bool:
        free = self.limit - self.used
        if free >= size:
            return True
        now = self._clock()
        for chunk in list(self._chunks.values()):
            if chunk.ready.is_set() and (
                not chunk.users or (chunk.users == chunk.resting and now - chunk.since >= STALLED_SECONDS)
            ):
                chunk.is_dropped, chunk.plain = True, None
                del self._chunks[chunk.name]
                self.used -= chunk.room
                free += chunk.room
                if free >= size:
                    return True
        return False

    def _serve(self) -> None:
        while self._waiting:
            size, turn = self._waiting[0]
            if turn.done():
                self._waiting.popleft()
            elif self._make_room(size):
                self._waiting.popleft()
                self.used += size
                turn.set_result(None)
            else:
                break
        if self._waiting and self._timer is None and any(chunk.resting for chunk in self._chunks.values()):
            self._timer = asyncio.get_running_loop().call_later(STALLED_SECONDS, self._look_again)

    def _look_again(self) -> None:
        self._timer = None
        self._serve()
