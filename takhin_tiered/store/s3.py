"""S3, MinIO, and whatever else speaks S3's protocol. Only this and `requests` know an AWS library.

Each upload carries the SHA-256 of its body, which the server checks before it stores anything, over plain
HTTP too; for one that does not, see `server`. Large objects go in parts, each checked in the same way, and an upload
that fails is aborted. Retries are botocore's; only a download that breaks off in its body is taken up
again here. Source: Amazon S3 API reference, PutObject, UploadPart, CompleteMultipartUpload.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Any

import aioboto3
import aiohttp
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    NoCredentialsError,
    PartialCredentialsError,
)

from takhin_tiered.codec.checksums import Checksum, Source, header_to_hex
from takhin_tiered.concurrency import all_of, in_thread, is_cancelled
from takhin_tiered.errors import (
    ObjectExists,
    ObjectMissing,
    StoreDenied,
    StoreError,
    StoreUnavailable,
)
from takhin_tiered.store import wire
from takhin_tiered.store.answers import EmptyRange, NotReadable, address_of, date_of, meaning, size_of_all, word_by_md5
from takhin_tiered.store.base import ObjectInfo, StoreTime
from takhin_tiered.store.body import SourceBody
from takhin_tiered.store.requests import USER_AGENT, AlreadyThere, NotThere, Requests, parse_time
from takhin_tiered.store.server import Check, Server
from takhin_tiered.store.wire import Deadlines, Sink

_PARTS_AT_ONCE = 4
_DELETE_BATCH = 1000
_DOWNLOAD_TRIES = 4
_BROKEN = (aiohttp.ClientError, BotoCoreError, OSError, TimeoutError)


class S3Store:
    """Made by `open_s3`. Safe for many tasks of one event loop."""

    def __init__(
        self,
        requests: Requests,
        bucket: str,
        prefix: str,
        endpoint: str,
        deadlines: Deadlines,
        *,
        server: Server | None = None,
    ) -> None:
        self._requests = requests
        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._endpoint = endpoint
        self._address = address_of(bucket, prefix, endpoint)
        self._deadlines = deadlines
        self._server = server or Server(self._put_whole, self.delete, self._is_there, self._address)

    @property
    def address(self) -> str:
        return self._address

    def to_read(self, prefix: str) -> S3Store:
        """Another prefix of the bucket, over the same connections. What the server can do is asked under this one."""
        return S3Store(self._requests, self._bucket, prefix, self._endpoint, self._deadlines, server=self._server)

    async def check(self) -> None:
        await self._list_one()

    async def _list_one(self) -> Any:
        return await self._call("list", "", "list_objects_v2", Bucket=self._bucket, Prefix=self._prefix, MaxKeys=1)

    async def put(
        self, key: str, body: Source, *, size: int, checksum: Checksum, if_absent: bool = False
    ) -> ObjectInfo:
        if not await self.wants_md5():
            checksum = replace(checksum, md5=())

        async def send(*, if_absent: bool) -> Any:
            put = self._put_parts if checksum.part_size else self._put_whole
            return await put(key, body, size, checksum, if_absent=if_absent)

        answer = await (self._server.put_if_absent(key, send) if if_absent else send(if_absent=False))
        said = word_by_md5(answer["ETags"], checksum) if checksum.md5 else await self._word(answer)
        return ObjectInfo(key, size, said, time.time())

    async def recognise(self, key: str, is_known: Callable[[bytes | None], bool]) -> bytes | None:
        try:
            data = await self.read(key)
        except ObjectMissing:
            data = None
        is_known(data)
        return data

    async def now(self) -> StoreTime | None:
        answer = await self._list_one()
        date = date_of(answer)
        return None if date is None else StoreTime(date, is_independent=True)

    async def wants_md5(self) -> bool:
        return await self._server.checks() is Check.MD5

    async def head(self, key: str) -> ObjectInfo | None:
        try:
            answer = await self._call(
                "head",
                key,
                "head_object",
                Bucket=self._bucket,
                Key=self._full(key),
                ChecksumMode="ENABLED",
            )
        except ObjectMissing:
            return None
        modified = answer["LastModified"].timestamp()
        return ObjectInfo(key, answer["ContentLength"], await self._word(answer), modified)

    async def read(self, key: str, *, limit: int = 1 << 20) -> bytes:
        pieces: list[bytes] = []
        await self._fetch(key, lambda piece: pieces.append(bytes(piece)), 0, limit, wire.at_once)
        return b"".join(pieces)

    async def fetch(self, key: str, sink: Sink, *, start: int = 0, end: int | None = None) -> None:
        await self._fetch(key, sink, start, end, in_thread)

    async def _fetch(self, key: str, sink: Sink, start: int, end: int | None, hand: wire.Hand) -> None:
        at, tries = start, 1

        def take(piece: memoryview) -> None:
            nonlocal at
            sink(piece)
            at += len(piece)

        while (answer := await self._get(key, at, end)) is not None:
            length = answer.get("ContentLength", 0)
            try:
                # Other ranges of the same object may share the line.
                async with asyncio.timeout(self._deadlines.operation(size_of_all(answer))):
                    await wire.take_body(answer["Body"], length, take, self._deadlines.read, hand)
                return
            except _BROKEN as error:
                if tries == _DOWNLOAD_TRIES:
                    raise StoreUnavailable(f"the download broke off at byte {at}: {error!r}", key=key) from error
                tries += 1

    async def list(self, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        token: dict[str, Any] = {}
        while True:
            page = await self._call(
                "list", "", "list_objects_v2",
                Bucket=self._bucket, Prefix=self._full(prefix), **token,
            )  # fmt: skip
            for entry in page.get("Contents", ()):
                key = entry["Key"].removeprefix(self._prefix)
                yield ObjectInfo(key, entry["Size"], None, entry["LastModified"].timestamp())
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    async def delete(self, keys: Sequence[str]) -> None:
        for at in range(0, len(keys), _DELETE_BATCH):
            objects = [{"Key": self._full(key)} for key in keys[at : at + _DELETE_BATCH]]
            answer = await self._call(
                "delete", "", "delete_objects",
                Bucket=self._bucket, Delete={"Objects": objects, "Quiet": True},
            )  # fmt: skip
            for failed in answer.get("Errors", ()):
                key = failed["Key"].removeprefix(self._prefix)
                raise StoreUnavailable(f"the store did not delete it: {failed.get('Code')}", key=key)

    async def remove_stale_uploads(self, older_than: float, ours: Callable[[str], bool] = lambda _: True) -> int:
        removed = 0
        marker: dict[str, Any] = {}
        while True:
            try:
                page = await self._call(
                    "list uploads", "", "list_multipart_uploads",
                    Bucket=self._bucket, Prefix=self._prefix, **marker,
                )  # fmt: skip
            except ObjectMissing:
                # So says rclone's server, until one was begun in the bucket.
                return removed
            for upload in page.get("Uploads", ()):
                key = upload["Key"].removeprefix(self._prefix)
                if ours(key) and time.time() - upload["Initiated"].timestamp() > older_than:
                    await self._abort(key, upload["UploadId"])
                    removed += 1
            if not page.get("IsTruncated"):
                return removed
            marker = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}

    async def _is_there(self, key: str) -> bool:
        """By a byte of it: after a HEAD that says no, and no length, the HTTP library closes the connection."""
        try:
            answer = await self._ask_for(key, 0, 1)
        except ObjectMissing:
            return False
        except (EmptyRange, NotReadable):
            return True
        async with answer["Body"]:
            return True

    async def _word(self, answer: Any) -> str | None:
        """The checksum in an answer; None where it is only what the upload claimed, as the server never looks."""
        header = answer.get("ChecksumSHA256")
        return header_to_hex(header) if header and await self._server.checks() is Check.SHA256 else None

    async def _put_whole(self, key: str, body: Source, size: int, checksum: Checksum, *, if_absent: bool) -> Any:
        answer = await self._call(
            "put", key, "put_object", size=size,
            Bucket=self._bucket, Key=self._full(key),
            Body=SourceBody(body, 0, size, patience=self._deadlines.read), ContentLength=size,
            ChecksumAlgorithm="SHA256", ChecksumSHA256=checksum.header,
            **_condition(if_absent), **_md5(checksum, 0),
        )  # fmt: skip
        return {**answer, "ETags": [answer.get("ETag", "")]}

    async def _put_parts(self, key: str, body: Source, size: int, checksum: Checksum, *, if_absent: bool) -> Any:
        upload = await self._call(
            "create upload", key, "create_multipart_upload",
            Bucket=self._bucket, Key=self._full(key), ChecksumAlgorithm="SHA256", ChecksumType="COMPOSITE",
        )  # fmt: skip
        try:
            parts = await self._send_parts(key, upload["UploadId"], body, size, checksum)
            answer = await self._call(
                "complete upload", key, "complete_multipart_upload", size=size,
                Bucket=self._bucket, Key=self._full(key), UploadId=upload["UploadId"],
                MultipartUpload={"Parts": parts}, **_condition(if_absent),
            )  # fmt: skip
            return {**answer, "ETags": [part["ETag"] for part in parts]}
        except BaseException:
            # Also when cancelled: an upload that nobody finishes is paid for until somebody aborts it.
            await asyncio.shield(self._abort_quietly(key, upload["UploadId"]))
            raise

    async def _send_parts(
        self, key: str, upload_id: str, body: Source, size: int, checksum: Checksum
    ) -> Sequence[dict[str, Any]]:
        room = asyncio.Semaphore(_PARTS_AT_ONCE)

        async def send(number: int, digest: bytes) -> dict[str, Any]:
            start = (number - 1) * checksum.part_size
            length = min(checksum.part_size, size - start)
            header = Checksum(digest.hex()).header
            async with room:
                answer = await self._call(
                    "put part", key, "upload_part", size=length,
                    Bucket=self._bucket, Key=self._full(key), UploadId=upload_id, PartNumber=number,
                    Body=SourceBody(body, start, length, patience=self._deadlines.read), ContentLength=length,
                    ChecksumAlgorithm="SHA256", ChecksumSHA256=header, **_md5(checksum, number - 1),
                )  # fmt: skip
            return {"PartNumber": number, "ETag": answer["ETag"], "ChecksumSHA256": header}

        return await all_of([send(number, digest) for number, digest in enumerate(checksum.parts, 1)])

    async def _abort(self, key: str, upload_id: str) -> None:
        await self._call(
            "abort upload", key, "abort_multipart_upload",
            Bucket=self._bucket, Key=self._full(key), UploadId=upload_id,
        )  # fmt: skip

    async def _abort_quietly(self, key: str, upload_id: str) -> None:
        # What cannot be aborted now is found by `remove_stale_uploads` later.
        try:
            await self._abort(key, upload_id)
        except StoreError:
            return

    async def _get(self, key: str, start: int, end: int | None) -> Any:
        if end is not None and end <= start:
            return None
        try:
            answer = await self._ask_for(key, start, end)
        except EmptyRange:
            return None
        is_whole = not start and (end is None or answer.get("ContentLength", 0) <= end)
        if "ContentRange" not in answer and not is_whole:
            answer["Body"].close()
            raise StoreUnavailable("the server does not answer a range with that range", key=key)
        return answer

    async def _ask_for(self, key: str, start: int, end: int | None) -> Any:
        is_range = start or end is not None
        wanted: dict[str, Any] = {"Range": f"bytes={start}-{'' if end is None else end - 1}"} if is_range else {}
        return await self._call("get", key, "get_object", Bucket=self._bucket, Key=self._full(key), **wanted)

    async def _call(
        self,
        verb: str,
        key: str,
        operation: str,
        *,
        size: int = 0,
        **arguments: Any,
    ) -> Any:
        deadline = self._deadlines.operation(size)
        try:
            with _translated(verb, key, self._address, deadline):
                async with asyncio.timeout(deadline):
                    return await self._requests.send(operation, arguments)
        except NotThere:
            raise ObjectMissing(f"there is no {key} in {self._address}", key=key) from None
        except AlreadyThere:
            raise ObjectExists(f"there is a {key} in {self._address} already", key=key) from None
        except asyncio.CancelledError:
            if is_cancelled():
                raise
            raise StoreUnavailable(f"cannot {verb} in {self._address}: the request was given up", key=key) from None

    def _full(self, key: str) -> str:
        return self._prefix + key


@asynccontextmanager
async def open_s3(
    bucket: str,
    *,
    region: str,
    prefix: str,
    endpoint: str = "",
    connections: int = 32,
    deadlines: Deadlines | None = None,
) -> AsyncIterator[S3Store]:
    """Connect when first used. Credentials come from the SDK's own chain; an endpoint means path-style keys."""
    deadlines = deadlines or Deadlines()
    sdk = get_session()
    sdk.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=parse_time)
    requests = Requests(sdk.get_credentials)
    config = AioConfig(
        http_session_cls=requests.connections,
        connect_timeout=deadlines.connect,
        read_timeout=deadlines.read,
        max_pool_connections=connections,
        retries={"mode": "standard", "total_max_attempts": 4},
        user_agent=USER_AGENT,
        # Arguments are this module's own.
        parameter_validation=False,
        # The checksum header, which is signed, says which bytes are meant; signing them as well reads them twice.
        s3={"payload_signing_enabled": False, "addressing_style": "path" if endpoint else "auto"},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    async with AsyncExitStack() as stack:
        session = aioboto3.Session(region_name=region, botocore_session=sdk)
        with _translated("connect", "", address_of(bucket, prefix, endpoint), deadlines.base):
            # In the clear there are no certificates to be loaded: that takes a twentieth of a start.
            verify = False if endpoint.startswith("http://") else None
            connect = session.client("s3", endpoint_url=endpoint or None, verify=verify, config=config)
            client = await stack.enter_async_context(connect)
        requests.use(client)
        yield S3Store(requests, bucket, prefix, endpoint, deadlines)


def _condition(if_absent: bool) -> dict[str, Any]:
    return {"IfNoneMatch": "*"} if if_absent else {}


def _md5(checksum: Checksum, piece: int) -> dict[str, str]:
    return {"ContentMD5": base64.b64encode(checksum.md5[piece]).decode()} if checksum.md5 else {}


@contextmanager
def _translated(verb: str, key: str, address: str, deadline: float) -> Iterator[None]:
    """The library's errors, as this project's."""
    try:
        yield
    except ClientError as error:
        raise meaning(error.response, verb, key, address) from error
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise StoreDenied(
            f"cannot {verb} in {address}: {error}",
            key=key,
            hint="Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or an instance role",
        ) from error
    except TimeoutError as error:
        raise StoreUnavailable(f"cannot {verb} in {address}: no end after {deadline:.0f} s", key=key) from error
    except HTTPClientError as error:
        raise StoreUnavailable(f"cannot {verb} in {address}: {error}", key=key) from error
    except (BotoCoreError, aiohttp.ClientError, OSError) as error:
        raise StoreUnavailable(f"cannot {verb} in {address}: {error!r}", key=key) from error
