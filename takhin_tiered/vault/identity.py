"""Which store this is: an object with an ID under the prefix, and the same ID in the catalog.

A store that lacks the ID, or has another one, is not the store that the catalog speaks of: a mount point without its
mount, another endpoint, a bucket that was emptied or put in its place. Nothing is written there, nothing is removed,
here or there, until it is back, or until a person names its ID with ``--accept-store``.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Protocol
from uuid import uuid4

from takhin_tiered import logs
from takhin_tiered.catalog.catalog import Catalog
from takhin_tiered.codec.checksums import bytes_source, checksum_of
from takhin_tiered.errors import ObjectExists, StoreChanged
from takhin_tiered.points import reached
from takhin_tiered.segments.names import parse_manifest_key
from takhin_tiered.store.base import STORE_KEY, ObjectStore

_NAME, _PROPOSED, _FIRST = "store", "store.proposed", "store.first"
_FITS, _MAY_BE_READ = "fits", "may be read"
_SAMPLE = 16
_LONGEST = 64 << 10


class Meta(Protocol):
    """The words that a journal keeps."""

    async def get_meta(self, name: str) -> str | None: ...

    async def set_meta(self, name: str, value: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Judged:
    """A store that may be used: ``id`` is its ID, or the one that it is to get. See `Identity.settle`."""

    id: str
    is_known: bool = False
    is_there: bool = False
    by_hand: bool = False


class Identity:
    """``accept`` is what a person said, or empty: it counts once. ``may_write``: whether the journal is ours."""

    def __init__(
        self, store: ObjectStore, meta: Meta | None, catalog: Catalog, accept: str, *, may_write: bool
    ) -> None:
        self._store, self._meta, self._catalog = store, meta, catalog
        self._accept = accept if may_write else ""
        self._may_write = may_write

    @property
    def address(self) -> str:
        return self._store.address

    async def judge(self) -> Judged:
        """Return if the store may be used. Writes nothing there. `StoreChanged`, and `StoreError`."""
        known = await self._get(_NAME)
        data = await self._recognised(known)
        found = parse_id(data)
        if self._accept:
            return await self._accepted(known, found)
        if known:
            if found != known:
                raise await self._changed(known, found)
            return Judged(known, is_known=True, is_there=True)
        if self._may_write and await self._is_refused(found, has_data=bool(data)):
            raise await self._refusal(found)
        return Judged(found or uuid4().hex, is_there=found is not None)

    async def settle(self, judged: Judged) -> None:
        """Give the store its ID where it has none, and remember it: to be called by the owner of the prefix."""
        if judged.is_known:
            return
        if not judged.is_there:
            await self._write(judged.id)
            reached("store.identified")
        for name in (_PROPOSED, _FIRST):
            await self._set(name, "")
        await self._set(_NAME, judged.id)
        self._accept = ""
        await self._recognised(judged.id)

    async def judge_to_read(self) -> None:
        """Return unless the store is known to be another one. An archive that was never given an ID may be read."""
        try:
            await self.judge()
        except StoreChanged:
            if not (await self._get(_FIRST)).endswith(_MAY_BE_READ) or await self._get(_NAME) or self._accept:
                raise

    async def _accepted(self, known: str, found: str | None) -> Judged:
        """A person named an ID: the one that is there, or, where none is, the one that was proposed for it."""
        if found == self._accept == known:
            return Judged(known, is_known=True, is_there=True)
        if self._accept != (found or await self._get(_PROPOSED)):
            raise await self._changed(known, found) if known else await self._refusal(found)
        logs.logger().warning("the store is accepted by hand", store=self._store.address, id=self._accept, before=known)
        return Judged(self._accept, is_there=found is not None, by_hand=True)

    async def _is_refused(self, found: str | None, *, has_data: bool) -> bool:
        """It stays as it was judged first: what is learned of an archive, to read from it, makes it no more ours."""
        this = f"{self._store.address} {found} "
        if not (before := await self._get(_FIRST)).startswith(this):
            if await self._fits(found, has_data=has_data):
                verdict = _FITS
            else:
                verdict = "" if any(True for _ in self._catalog.archived()) else _MAY_BE_READ
            await self._set(_FIRST, before := this + verdict)
        return not before.endswith(_FITS)

    async def _fits(self, found: str | None, *, has_data: bool) -> bool:
        """Whether catalog and store do not contradict each other, where neither of them knows of an ID yet."""
        archived = list(islice((each for each in self._catalog.archived() if each.in_archive), _SAMPLE))
        for segment in archived:
            info = await self._store.head(segment.id.manifest_key)
            if info is not None and not info.read_only:
                return True
        if archived or (has_data and found is None):
            return False
        return found is not None or not await self._has_manifests()

    async def _changed(self, known: str, found: str | None) -> StoreChanged:
        what = f"has the ID {found}" if found else "has no ID (takhin-tiered.store.json)"
        return await self._unlike(
            f"is not the store that was archived to: it {what}, and ours was {known}",
            "Is it mounted, and are endpoint, bucket and prefix right? If it is meant to be used all the same",
            found,
        )

    async def _refusal(self, found: str | None) -> StoreChanged:
        has_archive = any(True for _ in self._catalog.archived())
        lacks = "has none of the segments that were archived" if has_archive else "holds an archive without an ID"
        return await self._unlike(
            f"{lacks}, and was never used with this data directory",
            "If endpoint, bucket and prefix are right",
            found,
        )

    async def _unlike(self, what: str, condition: str, found: str | None) -> StoreChanged:
        """The error, which tells how to accept the store after all."""
        accept = "takhin-tiered run --once tells the ID to be accepted"
        if identifier := found or await self._proposed():
            accept = f"stop the daemon: takhin-tiered run --once --accept-store {identifier}"
        return StoreChanged(
            f"{self._store.address} {what}",
            key=STORE_KEY,
            hint=f"Nothing is written or removed there, and local files stay. {condition}, {accept}",
        )

    async def _proposed(self) -> str:
        """The ID that a store without one gets, if a person says so: the same each time it is told."""
        proposed = await self._get(_PROPOSED)
        if not proposed and self._may_write:
            await self._set(_PROPOSED, proposed := uuid4().hex)
        return proposed

    async def _recognised(self, known: str) -> bytes | None:
        """What stands in the store as its ID; the store is believed from now on where it is the known one."""
        return await self._store.recognise(STORE_KEY, lambda data: not known or parse_id(data) == known)

    async def _get(self, name: str) -> str:
        return (await self._meta.get_meta(name) or "") if self._meta is not None else ""

    async def _set(self, name: str, value: str) -> None:
        if self._meta is not None and self._may_write and await self._get(name) != value:
            await self._meta.set_meta(name, value)

    async def _write(self, identifier: str) -> None:
        """Raises `StoreChanged` where another ID is there afterwards. What cannot be read as one is written over."""
        data = json.dumps({"id": identifier}).encode()
        checksum = checksum_of(bytes_source(data), len(data))
        for if_absent in (True, False):
            with suppress(ObjectExists):
                await self._store.put(
                    STORE_KEY, bytes_source(data), size=len(data), checksum=checksum, if_absent=if_absent
                )
            found = parse_id(await self._store.read(STORE_KEY))
            if found is not None:
                break
        if found != identifier:
            raise await self._changed(identifier, found)

    async def _has_manifests(self) -> bool:
        async for info in self._store.list():
            if not info.read_only and parse_manifest_key(info.key) is not None:
                return True
        return False


def parse_id(data: bytes | None) -> str | None:
    """The ID in the object; None where there is none, or what stands there is none."""
    try:
        found = json.loads((data or b"")[:_LONGEST])
    except (ValueError, RecursionError):
        return None
    identifier = found.get("id") if isinstance(found, dict) else None
    return identifier if isinstance(identifier, str) and identifier else None
