"""How far an S3 server's word can be taken: it is asked once, with uploads that it ought to refuse.

There are servers that store the checksum which an upload claims and look at no byte, and some that take
a conditional write for an ordinary one. Source: Amazon S3 API reference, PutObject.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from enum import Enum, auto
from typing import Any, Protocol

from takhin_tiered import logs
from takhin_tiered.codec.checksums import Checksum, Source, bytes_source, checksum_of
from takhin_tiered.errors import ObjectCorrupt, ObjectExists, StoreDenied, StoreError
from takhin_tiered.store.answers import NoConditionalWrites
from takhin_tiered.store.base import PROBE_KEY


class Check(Enum):
    """What a server compares the bytes of an upload with before it stores them."""

    SHA256 = auto()
    MD5 = auto()
    NOTHING = auto()


class Put(Protocol):
    async def __call__(self, key: str, body: Source, size: int, checksum: Checksum, *, if_absent: bool) -> Any: ...


class Send(Protocol):
    async def __call__(self, *, if_absent: bool) -> Any: ...


class Server:
    def __init__(
        self,
        put: Put,
        delete: Callable[[Sequence[str]], Awaitable[None]],
        is_there: Callable[[str], Awaitable[bool]],
        address: str,
    ) -> None:
        self._put, self._delete, self._is_there, self._address = put, delete, is_there, address
        self._checks: Check | None = None
        self._refuses_second_writes: bool | None = None
        self._asking = asyncio.Lock()

    async def checks(self) -> Check:
        """Asked with bytes that are not those of their checksum."""
        if self._checks is None:
            async with self._asking:
                if self._checks is None:
                    try:
                        self._checks = await self._find_check()
                    except StoreDenied:
                        # Who may only read cannot ask, and so believes nothing.
                        return Check.NOTHING
        return self._checks

    async def put_if_absent(self, key: str, send: Send) -> Any:
        """Let ``send`` store an object where there is none; `ObjectExists` where there is one.

        On a server that does not refuse a second write there is a moment between the look and the write.
        """
        if self._refuses_second_writes:
            return await send(if_absent=True)
        if await self._is_there(key):
            raise ObjectExists("there is an object already", key=key)
        if self._refuses_second_writes is False:
            return await send(if_absent=False)
        try:
            answer = await send(if_absent=True)
        except ObjectExists:
            self._refuses_second_writes = True
            raise
        except NoConditionalWrites:
            self._refuses_second_writes = False
            return await send(if_absent=False)
        await self._find_whether_refused(send)
        return answer

    async def _find_whether_refused(self, send: Send) -> None:
        """The very write that was just done, once more: nothing is changed by it where it is not refused."""
        try:
            await send(if_absent=True)
        except ObjectExists:
            self._refuses_second_writes = True
        except StoreError:
            return
        if self._refuses_second_writes is None:
            self._refuses_second_writes = False
            logs.logger().warning("the store takes conditional writes for ordinary ones", store=self._address)

    async def _find_check(self) -> Check:
        right, wrong = (checksum_of(bytes_source(byte), 1) for byte in (b"?", b"!"))
        if await self._refuses(replace(wrong, md5=())):
            return Check.SHA256
        refuses_md5 = await self._refuses(replace(right, md5=wrong.md5))
        await self._delete([PROBE_KEY])
        words = "compares uploads with their MD5 only" if refuses_md5 else "checks no upload: each is read back"
        logs.logger().warning(f"the store {words}", store=self._address)
        return Check.MD5 if refuses_md5 else Check.NOTHING

    async def _refuses(self, checksum: Checksum) -> bool:
        try:
            await self._put(PROBE_KEY, bytes_source(b"?"), 1, checksum, if_absent=False)
        except ObjectCorrupt:
            return True
        return False
