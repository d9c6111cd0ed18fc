"""What leaves an S3 bucket: objects, in batches where the server can, and uploads that nobody finished."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from takhin_tiered import logs
from takhin_tiered.concurrency import all_of
from takhin_tiered.errors import ObjectMissing, StoreDenied
from takhin_tiered.store.base import Conflict, NotSupported
from takhin_tiered.store.s3.answers import Answer
from takhin_tiered.store.s3.calls import Calls
from takhin_tiered.store.s3.sending import abort
from takhin_tiered.store.s3.server import Server

_BATCH = 1000
_SINGLY_AT_ONCE = 8
_GONE = {"NoSuchKey", "NoSuchVersion"}
_REFUSALS = (NotSupported, Conflict, StoreDenied, ObjectMissing)


async def delete_objects(calls: Calls, server: Server, keys: Sequence[str]) -> None:
    """One by one where the server has no batches, and those that it did not delete in one."""
    for at in range(0, len(keys), _BATCH):
        batch = keys[at : at + _BATCH]
        if len(batch) == 1 or (await server.now()).batch_delete is False:
            await _delete_singly(calls, batch)
            continue
        try:
            left = await _delete_batch(calls, batch)
        except _REFUSALS:
            # Not asked for a thousand times where the keys may not delete.
            await _delete_singly(calls, batch[:1])
            await _delete_singly(calls, batch[1:])
            server.note(batch_delete=False)
        else:
            server.note(batch_delete=True)
            await _delete_singly(calls, left)


async def _delete_batch(calls: Calls, keys: Sequence[str]) -> Sequence[str]:
    """The keys that were not deleted."""
    objects = [{"Key": calls.full(key)} for key in keys]
    answer = await calls.send("delete", "delete_objects", Delete={"Objects": objects, "Quiet": True})
    errors = answer.pieces("Errors")
    return [error["Key"].removeprefix(calls.prefix) for error in errors if error.get("Code") not in _GONE]


async def _delete_singly(calls: Calls, keys: Sequence[str]) -> None:
    room = asyncio.Semaphore(_SINGLY_AT_ONCE)

    async def delete(key: str) -> None:
        async with room:
            with suppress(ObjectMissing):
                await calls.send("delete", "delete_object", key)

    await all_of([delete(key) for key in keys])


async def remove_uploads(
    calls: Calls, server: Server, older_than: float, ours: Callable[[str], bool], begun: Sequence[str]
) -> int:
    """Abort what was begun so many seconds ago; returns how many. Nothing where the server does not list them.

    MinIO lists those of a whole key only, so each of ``begun`` is asked for by itself too.
    """
    removed = 0
    done: set[str] = set()
    for prefix in (calls.prefix, *map(calls.full, begun)):
        marker: dict[str, Any] = {"Prefix": prefix}
        while (page := await _uploads(calls, server, marker)) is not None:
            for upload in page.pieces("Uploads"):
                key, number = upload["Key"].removeprefix(calls.prefix), upload["UploadId"]
                is_old = time.time() - upload["Initiated"].timestamp() > older_than
                if ours(key) and is_old and number not in done:
                    done.add(number)
                    removed += await _abort(calls, key, number)
            if not page.get("IsTruncated"):
                break
            marker |= {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}
    return removed


async def find_whether_listed(calls: Calls, server: Server) -> None:
    await _uploads(calls, server, {"Prefix": calls.prefix, "MaxUploads": 1})


async def _uploads(calls: Calls, server: Server, how: dict[str, Any]) -> Answer | None:
    """A page of unfinished uploads; None where the server tells none."""
    if (await server.now()).lists_uploads is False:
        return None
    try:
        page = await calls.send("list uploads", "list_multipart_uploads", **how)
    except ObjectMissing:
        # So says rclone's server, until one was begun in the bucket.
        return None
    except (NotSupported, StoreDenied) as error:
        server.note(lists_uploads=False)
        logs.logger().warning(
            "the store does not list unfinished uploads: what a killed process began stays there",
            store=calls.address,
            error=str(error),
            hint="set a lifecycle rule, AbortIncompleteMultipartUpload",
        )
        return None
    server.note(lists_uploads=True)
    return page


async def _abort(calls: Calls, key: str, upload_id: str) -> bool:
    """One that cannot be aborted must not stop the others, nor the archive."""
    try:
        await abort(calls, key, upload_id)
    except (NotSupported, StoreDenied) as error:
        logs.logger().warning("an unfinished upload cannot be aborted", key=key, error=str(error))
        return False
    except ObjectMissing:
        return False
    return True
