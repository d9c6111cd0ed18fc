"""The places at which clients read: their streams stay open from one fetch to the next, within a limit for all.

A stream holds files of a local segment open, or a few chunks of an archived one in memory.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from takhin_tiered.kafka.client import Client
from takhin_tiered.reader.query import Isolation
from takhin_tiered.reader.runs import Limit
from takhin_tiered.reader.serving import ServedLogs
from takhin_tiered.reader.streams import LogStream, Taken

MOST_OPEN = 48
_SHARE = 8
"""One answer is of a share of them at most: its client may take it slowly, and the others go on with the rest."""
_WAIT_SECONDS = 1.0


class StreamName(NamedTuple):
    topic: str
    partition: int
    isolation: Isolation


@dataclass(slots=True)
class Place:
    """Where a client is, for people: the next offset of a partition, and the bytes that it has been given."""

    offset: int = 0
    bytes: int = 0
    at: float = 0.0


@dataclass(slots=True)
class _Open:
    """``is_needed``: it is being read from, or what it gave is still to be sent.

    ``taking`` is what was asked for at ``offset``, and is fetched on after an answer without it.
    """

    stream: LogStream
    offset: int
    is_needed: bool = False
    taking: asyncio.Task[Taken] | None = None


class OpenStreams:
    def __init__(self, logs: ServedLogs, most: int = MOST_OPEN) -> None:
        self._logs, self._most, self._share = logs, most, max(1, most // _SHARE)
        # What was read from least recently comes first.
        self._open: OrderedDict[tuple[Client, StreamName], _Open] = OrderedDict()
        self._places: dict[Client, dict[StreamName, Place]] = {}
        self._freed = asyncio.Event()

    async def at(self, client: Client, name: StreamName, offset: int, *, patient: bool) -> bool:
        """Have the client's stream at an offset, to `take` from once; False if it would be one too many.

        Then say `took` or `drop`, unless nothing has come. One that is not needed for any answer is closed for it; if
        all are, ``patient`` waits a little. No client holds one while it only waits for new records.
        """
        self._know(client)
        key = client, name
        found = self._open.get(key)
        if found is not None and (found.stream.offset if found.taking is None else found.offset) != offset:
            await self.drop(client, name)
            found = None
        if sum(each.is_needed for (owner, _), each in self._open.items() if owner is client) >= self._share:
            return False
        if found is None:
            if not await self._make_room(patient=patient):
                return False
            stream = self._logs.stream(name.topic, name.partition, offset, name.isolation)
            found = self._open[key] = _Open(stream, offset)
        self._open.move_to_end(key)
        found.is_needed, found.offset = True, offset
        return True

    async def take(self, client: Client, name: StreamName, limit: Limit, seconds: float) -> Taken | None:
        """See `LogStream.take`; None if it takes longer. It goes on then, for the next one who asks at this offset.

        So an answer waits for no store that is slow, or hangs: what stands elsewhere is given meanwhile.
        """
        found = self._open[client, name]
        if found.taking is None:
            found.taking = asyncio.create_task(
                found.stream.take(limit.most, at_least_one=limit.at_least_one, most_in_memory=limit.in_memory)
            )
        done, _ = await asyncio.wait([found.taking], timeout=seconds)
        if not done:
            self._release(found)
            return None
        taking, found.taking = found.taking, None
        return taking.result()

    async def pause(self, client: Client, seconds: float) -> None:
        """So long, or until something comes that the client waits for."""
        coming = [each.taking for (owner, _), each in self._open.items() if owner is client and each.taking is not None]
        if coming:
            await asyncio.wait(coming, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        else:
            await asyncio.sleep(seconds)

    def took(self, client: Client, name: StreamName, taken: Taken) -> None:
        """What was taken is sent, and the stream stays as it is until then."""
        found = self._open[client, name]
        if not taken.size:
            self._release(found)
            return
        client.after_answer(lambda: self._release(found))
        place = self._places[client].setdefault(name, Place())
        place.offset, place.at = taken.next_offset, time.time()
        place.bytes += taken.size

    async def drop(self, client: Client, name: StreamName) -> None:
        found = self._open.pop((client, name), None)
        if found is not None:
            self._freed.set()
            if found.taking is not None:
                found.taking.cancel()
                await asyncio.gather(found.taking, return_exceptions=True)
            await found.stream.close()

    def places(self) -> Iterator[tuple[Client, StreamName, Place]]:
        for client, places in self._places.items():
            for name, place in places.items():
                yield client, name, place

    def _know(self, client: Client) -> None:
        if client not in self._places:
            self._places[client] = {}
            client.sessions.push_async_callback(self._forget, client)

    async def _forget(self, client: Client) -> None:
        del self._places[client]
        for owner, name in [key for key in self._open if key[0] is client]:
            await self.drop(owner, name)

    async def _make_room(self, *, patient: bool) -> bool:
        until = time.monotonic() + _WAIT_SECONDS
        while len(self._open) >= self._most:
            unneeded = next((key for key, each in self._open.items() if not each.is_needed), None)
            if unneeded is not None:
                await self.drop(*unneeded)
                continue
            if not patient:
                return False
            self._freed.clear()
            try:
                async with asyncio.timeout(until - time.monotonic()):
                    await self._freed.wait()
            except TimeoutError:
                return False
        return True

    def _release(self, found: _Open) -> None:
        found.is_needed = False
        self._freed.set()
