"""Every object under a prefix, by `ListObjectsV2`, or in the older form where a server has only that.

A listing that says less than there is would be taken for loss: one that does not go on is an error.
Source: Amazon S3 API reference, ListObjectsV2, ListObjects.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from takhin_tiered.errors import StoreUnavailable
from takhin_tiered.store.base import NotSupported, ObjectInfo
from takhin_tiered.store.s3.answers import Answer
from takhin_tiered.store.s3.calls import Calls
from takhin_tiered.store.s3.server import Server


async def list_objects(calls: Calls, server: Server, prefix: str) -> AsyncIterator[ObjectInfo]:
    last, token = "", ""
    while True:
        page = await list_page(calls, server, prefix, after=last, token=token)
        entries = page.pieces("Contents")
        for entry in entries:
            key = entry["Key"].removeprefix(calls.prefix)
            modified = entry["LastModified"].timestamp()
            yield ObjectInfo(key, entry["Size"], None, modified, storage_class=entry.get("StorageClass", ""))
        if not page.get("IsTruncated"):
            return
        before, last = last, entries[-1]["Key"] if entries else page.get("NextMarker", last)
        token = page.get("NextContinuationToken", "")
        if last == before and not (token and not entries):
            raise StoreUnavailable(f"cannot list in {calls.address}: the server gives the same page again")


async def list_page(
    calls: Calls, server: Server, prefix: str = "", *, after: str = "", token: str = "", limit: int = 0
) -> Answer:
    """One page, behind the key ``after``; ``token`` is what the page before said of that."""
    how: dict[str, Any] = {"Prefix": calls.full(prefix)}
    older: dict[str, Any] = {"Marker": after} if after else {}
    newer: dict[str, Any] = {"ContinuationToken": token} if token else {}
    if limit:
        how["MaxKeys"] = limit
    if (after and not token) or (await server.now()).lists_v2 is False:
        # Also where an older server overlooked which form it was asked for: its pages have no token.
        return await calls.send("list", "list_objects", **how, **older)
    try:
        page = await calls.send("list", "list_objects_v2", **how, **newer)
    except NotSupported:
        page = await calls.send("list", "list_objects", **how, **older)
        server.note(lists_v2=False)
        return page
    if page.get("IsTruncated") and "NextContinuationToken" not in page:
        server.note(lists_v2=False)
    elif "KeyCount" in page:
        server.note(lists_v2=True)
    return page
