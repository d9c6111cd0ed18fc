"""The object store: one protocol, and the backends that keep it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from takhin_tiered.config import Settings
from takhin_tiered.store.base import Capabilities, Notes, ObjectInfo, ObjectStore, ReadableStore
from takhin_tiered.store.counting import RequestCounter, counted_as
from takhin_tiered.store.deadlines import Deadlines
from takhin_tiered.store.directory import DirectoryStore
from takhin_tiered.store.fallback import FallbackStore
from takhin_tiered.store.memory import MemoryStore
from takhin_tiered.store.observed import ObservedStore, StoreHealth, is_outage

__all__ = [
    "Capabilities",
    "DirectoryStore",
    "FallbackStore",
    "MemoryStore",
    "Notes",
    "ObjectInfo",
    "ObjectStore",
    "ObservedStore",
    "ReadableStore",
    "RequestCounter",
    "StoreHealth",
    "counted_as",
    "is_outage",
    "open_store",
]


@asynccontextmanager
async def open_store(
    settings: Settings, notes: Notes | None = None, counter: RequestCounter | None = None
) -> AsyncIterator[ObjectStore]:
    """The store that the configuration names, over those that it only reads.

    What a server can do is remembered in ``notes``; what is asked of it is counted in ``counter``.
    """
    counter = counter or RequestCounter()
    if settings.directory_path is not None:
        others = [DirectoryStore(Path(path), to_read=True, counter=counter) for path in settings.read_prefixes]
        # Who only observes need not be able to write.
        own = DirectoryStore(settings.directory_path, to_read=not settings.enabled, counter=counter)
        yield _over(own, others)
        return
    # Imported here, as the SDK takes half a second that the directory store need not wait for.
    from takhin_tiered.store.s3 import open_s3
    from takhin_tiered.store.s3.calls import Demands

    async with open_s3(
        settings.s3_bucket,
        region=settings.s3_region,
        prefix=settings.s3_prefix,
        endpoint=settings.s3_endpoint,
        connections=max(16, settings.archive_concurrency * 6),
        deadlines=_deadlines(settings),
        demands=Demands(
            sse=settings.sse,
            kms_key=settings.s3_sse_kms_key,
            requester_pays=settings.s3_requester_pays,
            checksum=settings.s3_checksum,
        ),
        notes=notes,
        counter=counter,
    ) as store:
        yield _over(store, [store.to_read(prefix) for prefix in settings.read_prefixes])


def _over(own: ObjectStore, others: Sequence[ObjectStore]) -> ObjectStore:
    return FallbackStore(own, others) if others else own


def _deadlines(settings: Settings) -> Deadlines:
    """Longer ones where a throttle makes every transfer slow: each gets only its share."""
    rates = [mbps * 1e6 for mbps in (settings.throttle_upload_mbps, settings.throttle_download_mbps) if mbps]
    if not rates:
        return Deadlines()
    transfers_at_once = 12 * settings.archive_concurrency
    return Deadlines(slowest=min(Deadlines().slowest, min(rates) / transfers_at_once))
