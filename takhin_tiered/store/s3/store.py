"""S3, MinIO, and whatever else speaks S3's protocol.

Each upload carries the SHA-256 of its body, which the server checks before it stores anything, over plain
HTTP too; for one that does not, or cannot do something else, see `server`. Large objects go in parts, each checked in
the same way, and an upload that fails is aborted. Retries are botocore's; only a download that breaks off in its body
is taken up again here, in `receiving`. Source: Amazon S3 API reference, PutObject, UploadPart, CompleteMultipartUpload.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from takhin_tiered.codec.checksums import Checksum, Source, header_to_hex
from takhin_tiered.errors import InGlacier, ObjectMissing, StoreDenied
from takhin_tiered.store.base import Capabilities, Check, Notes, NotSupported, ObjectInfo, StoreTime
from takhin_tiered.store.counting import RequestCounter
from takhin_tiered.store.deadlines import Deadlines
from takhin_tiered.store.landing import Seen, unseen
from takhin_tiered.store.s3.answers import EmptyRange, checksum_proven_by_md5, date_of, is_of_this_machine
from takhin_tiered.store.s3.calls import Calls, Demands, Place
from takhin_tiered.store.s3.classes import Wanted, change_class, is_coming, is_frozen, retrieve
from takhin_tiered.store.s3.clearing import delete_objects, find_whether_listed, remove_uploads
from takhin_tiered.store.s3.client import Client
from takhin_tiered.store.s3.listing import list_objects, list_page
from takhin_tiered.store.s3.receiving import Download, ask_for
from takhin_tiered.store.s3.requests import Requests
from takhin_tiered.store.s3.sending import Parcel, put_object
from takhin_tiered.store.s3.server import Server


class S3Store:
    """Made by `open_s3`. Safe for many tasks of one event loop."""

    def __init__(self, calls: Calls, *, notes: Notes | None = None, server: Server | None = None) -> None:
        self._calls = calls
        self._server = server or Server(calls, notes, self._put, self.delete, self._is_there)

    @property
    def address(self) -> str:
        return self._calls.address

    def to_read(self, prefix: str) -> S3Store:
        """Another prefix of the bucket, over the same connections. What the server can do is asked under this one."""
        return S3Store(self._calls.under(prefix), server=self._server)

    async def close(self) -> None:
        await self._server.close()

    async def check(self) -> None:
        await list_page(self._calls, self._server, limit=1)

    async def recognise(self, key: str, is_known: Callable[[bytes | None], bool]) -> bytes | None:
        try:
            data = await self.read(key)
        except ObjectMissing:
            data = None
        is_known(data)
        return data

    async def now(self) -> StoreTime | None:
        date = date_of(await list_page(self._calls, self._server, limit=1))
        is_ours = is_of_this_machine(await self._calls.requests.endpoint())
        return None if date is None else StoreTime(date, is_independent=not is_ours)

    async def put(
        self,
        key: str,
        body: Source,
        *,
        size: int,
        checksum: Checksum,
        if_absent: bool = False,
        storage_class: str = "",
    ) -> ObjectInfo:
        parcel = Parcel(key, body, size, checksum, storage_class)
        check = await self._server.checks()
        try:
            return await self._put_checked(parcel, check, if_absent=if_absent)
        except NotSupported:
            if check is Check.NOTHING:
                raise
            # Perhaps it refuses what it was known to take: it is asked anew. Where it says the same, it may refuse it
            # in parts only: then it is asked to compare nothing, and the object is read back.
            self._server.doubt()
            found = await self._server.checks()
            return await self._put_checked(parcel, Check.NOTHING if found is check else found, if_absent=if_absent)

    async def _put_checked(self, parcel: Parcel, check: Check, *, if_absent: bool) -> ObjectInfo:
        async def send(*, if_absent: bool) -> Any:
            return await self._put(parcel, check, if_absent=if_absent)

        answer = await (self._server.put_if_absent(parcel, send) if if_absent else send(if_absent=False))
        by_md5 = check is Check.MD5 and parcel.checksum.md5
        checksum = (
            checksum_proven_by_md5(answer["ETags"], parcel.checksum) if by_md5 else await self._kept_checksum(answer)
        )
        return ObjectInfo(parcel.key, parcel.size, checksum, time.time())

    async def wants_md5(self) -> bool:
        return await self._server.checks() is Check.MD5

    async def capabilities(self) -> Capabilities:
        await find_whether_listed(self._calls, self._server)
        await self.check()
        return await self._server.find_all()

    async def head(self, key: str) -> ObjectInfo | None:
        try:
            answer = await self._head(key)
        except ObjectMissing:
            return None
        return ObjectInfo(
            key,
            answer["ContentLength"],
            await self._kept_checksum(answer),
            answer["LastModified"].timestamp(),
            storage_class=answer.get("StorageClass", ""),
            is_frozen=is_frozen(answer),
            is_coming=is_coming(answer),
        )

    async def _head(self, key: str) -> Any:
        """With the checksum, but from a server that refuses to be asked for one."""
        known = await self._server.now()
        if known.checks in {None, Check.SHA256} and known.checksum_headers is not False:
            try:
                return await self._calls.send("head", "head_object", key, ChecksumMode="ENABLED")
            except NotSupported:
                answer = await self._calls.send("head", "head_object", key)
                self._server.note(checksum_headers=False)
                return answer
        return await self._calls.send("head", "head_object", key)

    async def read(self, key: str, *, limit: int = 1 << 20) -> bytes:
        return await Download(self._calls, key, 0, limit).into_memory()

    def open(self, key: str, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        return Download(self._calls, key, start, end).pieces()

    async def fetch_into(
        self, key: str, file: int, *, start: int = 0, end: int | None = None, seen: Seen = unseen
    ) -> None:
        await Download(self._calls, key, start, end).into_file(file, seen)

    async def list(self, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        async for info in list_objects(self._calls, self._server, prefix):
            yield info

    async def retrieve(self, key: str, *, days: int, tier: str) -> None:
        await retrieve(self._calls, await self._head(key), key, days=days, tier=tier)

    async def change_class(self, key: str, storage_class: str, *, size: int, checksum: Checksum) -> None:
        wanted = Wanted(key, storage_class, size, checksum)
        await change_class(self._calls, await self._head(key), wanted, await self._server.checks())

    async def delete(self, keys: Sequence[str]) -> None:
        await delete_objects(self._calls, self._server, keys)

    async def remove_stale_uploads(
        self, older_than: float, ours: Callable[[str], bool] = lambda _: True, begun: Sequence[str] = ()
    ) -> int:
        return await remove_uploads(self._calls, self._server, older_than, ours, begun)

    async def _put(self, parcel: Parcel, check: Check, *, if_absent: bool) -> Any:
        return await put_object(self._calls, parcel, check, if_absent=if_absent)

    async def _is_there(self, key: str) -> bool:
        """By a byte of it: after a HEAD that says no, and no length, the HTTP library closes the connection."""
        try:
            answer = await ask_for(self._calls, key, 0, 1)
        except ObjectMissing:
            return False
        except (EmptyRange, InGlacier):
            return True
        async with answer["Body"]:
            return True

    async def _kept_checksum(self, answer: Any) -> str | None:
        """The checksum in an answer; None where it is only what the upload claimed, as the server never looks."""
        header = answer.get("ChecksumSHA256")
        return header_to_hex(header) if header and await self._server.checks() is Check.SHA256 else None


@asynccontextmanager
async def open_s3(
    bucket: str,
    *,
    region: str,
    prefix: str,
    endpoint: str = "",
    connections: int = 32,
    deadlines: Deadlines | None = None,
    demands: Demands | None = None,
    notes: Notes | None = None,
    counter: RequestCounter | None = None,
) -> AsyncIterator[S3Store]:
    """Credentials come from the SDK's own chain; an endpoint means path-style keys.

    Where the SDK cannot be used as its environment is, each request says so, and tries again. What is found out of the
    server is kept in ``notes``, and what is asked of it is counted in ``counter``.
    """
    deadlines = deadlines or Deadlines()
    client = Client(region, endpoint, connections, deadlines)
    counter = counter or RequestCounter()
    calls = Calls(Requests(client), Place(bucket, prefix, endpoint), deadlines, demands or Demands(), counter)
    store = S3Store(calls, notes=notes)
    try:
        with suppress(StoreDenied):
            await calls.requests.endpoint()
        yield store
    finally:
        await store.close()
        await client.close()
