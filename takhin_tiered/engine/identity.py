"""Which store this is: an object with an ID under the prefix, and the same ID in the catalog.

A store that lacks the ID, or has another one, is not the store that the catalog speaks of: a mount point without its
mount, another endpoint, a bucket that was emptied or put in its place. Nothing is written there, nothing is removed,
here or there, until it is back, or until a person names its ID with ``--accept-store``.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from itertools import islice
from typing import Protocol
from uuid import uuid4

from takhin_tiered import logs
from takhin_tiered.catalog.catalog import Catalog
from takhin_tiered.codec.checksums import bytes_source, checksum_of
from takhin_tiered.errors import ObjectExists, StoreChanged
from takhin_tiered.points import reached
from takhin_tiered.segments.names import parse_manifest_key
from takhin_tiered.store.base import STORE_KEY, ObjectInfo, ObjectStore

_NAME, _PROPOSED = "store", "store.proposed"
_SAMPLE = 16


class Meta(Protocol):
    """The words that a journal keeps."""

    async def get_meta(self, name: str) -> str | None: ...

    async def set_meta(self, name: str, value: str) -> None: ...


class Identity:
    """``accept`` is what a person said, or empty. ``may_write``: whether an ID may be given, here or there."""

    def __init__(
        self, store: ObjectStore, meta: Meta | None, catalog: Catalog, accept: str, *, may_write: bool
    ) -> None:
        self._store, self._meta, self._catalog = store, meta, catalog
        self._accept = accept
        self._may_write = may_write
        self._asking = asyncio.Lock()

    async def confirm(self) -> bool:
        """Return if the store is the one that the catalog speaks of; True if that was accepted by hand just now.

        The first time, where nothing stands against it, it gets its ID. Raises `StoreChanged`, and `StoreError` where
        it does not answer.
        """
        async with self._asking:
            known = await self._known()
            found = await self._recognised(known)
            if self._accept and self._may_write:
                return await self._take(known, found)
            if known is None:
                await self._meet(found)
            elif found != known:
                raise self._changed(known, found)
            return False

    async def confirm_to_read(self) -> None:
        """Return unless the store is known to be another one. What was never given an ID may be read."""
        if self._accept and self._may_write:
            await self.confirm()
            return
        known = await self._known()
        found = await self._recognised(known)
        if known is not None and found != known:
            raise self._changed(known, found)

    async def _known(self) -> str | None:
        return await self._meta.get_meta(_NAME) if self._meta is not None else None

    async def _recognised(self, known: str | None) -> str | None:
        """The ID that stands in the store; it is believed from now on where it is the known one."""
        return parse_id(await self._store.recognise(STORE_KEY, lambda data: known in {None, parse_id(data)}))

    async def _meet(self, found: str | None) -> None:
        """The first time: an ID is taken over, or given, only where catalog and store do not contradict each other."""
        if not self._may_write:
            return
        archived = [segment.id.manifest_key for segment in islice(self._catalog.archived(), _SAMPLE)]
        fits = await self._has_any(archived) if archived else found is not None or not await self._has_manifests()
        if not fits:
            raise await self._refusal(found, has_archive=bool(archived))
        found = found or await self._write(uuid4().hex)
        reached("store.identified")
        await self._remember(found)

    async def _take(self, known: str | None, found: str | None) -> bool:
        """A person named an ID: the one that is there, or, where none is, the one that is to be given."""
        if found == self._accept == known:
            return False
        if found is None and self._accept in {known, await self._proposed()}:
            found = await self._write(self._accept)
        if found != self._accept:
            raise StoreChanged(
                f"--accept-store {self._accept} does not name {self._store.address}: its ID is {found or 'missing'}",
                hint=f"The ID to be accepted is {found or known or await self._proposed()}",
            )
        await self._remember(found)
        logs.logger().warning("the store was accepted by hand", store=self._store.address, id=found, before=known)
        return True

    def _changed(self, known: str, found: str | None) -> StoreChanged:
        what = f"has the ID {found}" if found else "has no ID (takhin-tiered.store.json)"
        return StoreChanged(
            f"{self._store.address} is not the store that was archived to: it {what}, and ours was {known}",
            key=STORE_KEY,
            hint="Nothing is written or removed there, and local files stay. Is it mounted, and are endpoint, bucket "
            f"and prefix right? If it is meant to be used all the same: takhin-tiered run --once --accept-store "
            f"{found or known}",
        )

    async def _refusal(self, found: str | None, *, has_archive: bool) -> StoreChanged:
        which = found or await self._proposed()
        lacks = "has none of the segments that were archived" if has_archive else "holds an archive without an ID"
        return StoreChanged(
            f"{self._store.address} {lacks}, and was never used with this data directory",
            key=STORE_KEY,
            hint="Nothing is written or removed there, and local files stay. If endpoint, bucket and prefix are "
            f"right: takhin-tiered run --once --accept-store {which}",
        )

    async def _proposed(self) -> str:
        """The ID that a store without one gets, if a person says so: the same each time it is told."""
        if self._meta is None:
            return ""
        proposed = await self._meta.get_meta(_PROPOSED)
        if proposed is None:
            await self._meta.set_meta(_PROPOSED, proposed := uuid4().hex)
        return proposed

    async def _remember(self, found: str) -> None:
        if self._meta is not None:
            await self._meta.set_meta(_NAME, found)
        await self._recognised(found)

    async def _write(self, identifier: str) -> str:
        """Give the store an ID; the one that it has, if another process was faster."""
        data = json.dumps({"id": identifier}).encode()
        checksum = checksum_of(bytes_source(data), len(data))
        try:
            await self._store.put(STORE_KEY, bytes_source(data), size=len(data), checksum=checksum, if_absent=True)
        except ObjectExists:
            return parse_id(await self._store.read(STORE_KEY)) or identifier
        return identifier

    async def _has_any(self, keys: list[str]) -> bool:
        for key in keys:
            if await self._store.head(key) is not None:
                return True
        return False

    async def _has_manifests(self) -> bool:
        listing: AsyncIterator[ObjectInfo] = self._store.list()
        async for info in listing:
            if not info.read_only and parse_manifest_key(info.key) is not None:
                return True
        return False


def parse_id(data: bytes | None) -> str | None:
    """The ID in the object; None where there is none, or what stands there is none."""
    try:
        found = json.loads(data or b"")
    except ValueError:
        return None
    identifier = found.get("id") if isinstance(found, dict) else None
    return identifier if isinstance(identifier, str) and identifier else None
