"""The scan of a cycle: the catalog takes over what the data directories show."""

from __future__ import annotations

import asyncio
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice

from takhin_tiered import logs
from takhin_tiered.concurrency import in_thread
from takhin_tiered.disk.access import require_in_place
from takhin_tiered.disk.scan import scan
from takhin_tiered.engine.brokers import look_at_brokers
from takhin_tiered.engine.context import Engine
from takhin_tiered.engine.outlook import is_compacted, look_ahead, read_directories
from takhin_tiered.errors import DiskError
from takhin_tiered.segments.listing import PartitionListing
from takhin_tiered.segments.names import SegmentId

_LISTINGS_AT_ONCE = 4
_WRITES_AT_ONCE = 20_000
_CLOCKS_DIFFER_SECONDS = 3600.0


@dataclass(slots=True)
class Look:
    """What a scan found besides segments: unfinished files of a restore, and partitions that cannot be read."""

    unfinished: list[PartitionListing] = field(default_factory=list)
    unreadable: list[PartitionListing] = field(default_factory=list)


async def refresh_catalog(engine: Engine) -> Look:
    """Scan the data directories, and take over what it shows. `DiskError` where one cannot be read.

    What is known of a partition that cannot be read stays as it is.
    """
    look = Look()
    await in_thread(require_in_place, engine.data_dir)
    await in_thread(look_at_brokers, engine)
    engine.catalog.begin_scan()
    seen: set[tuple[str, int]] = set()
    listings = scan(engine.data_dir, engine.scan_memory, engine.catalog.unsettled_offsets, known=len(engine.catalog))
    try:
        with closing(listings):
            while batch := await in_thread(lambda: list(islice(listings, _LISTINGS_AT_ONCE))):
                for listing in batch:
                    seen.add((listing.topic, listing.partition))
                    if listing.problem:
                        look.unreadable.append(listing)
                        continue
                    _tell_gone(engine, engine.catalog.observe(listing), listing)
                    if listing.unfinished:
                        look.unfinished.append(listing)
                    # Whoever asks for something meanwhile is answered between two partitions.
                    await asyncio.sleep(0)
                if engine.catalog.unwritten > _WRITES_AT_ONCE:
                    await engine.catalog.flush()
    except OSError as error:
        raise DiskError(
            f"the data directory {error.filename or engine.data_dir} cannot be read: {error.strerror or error}",
            hint="Nothing is moved until it can",
        ) from error
    _tell_gone(engine, engine.catalog.observe_missing(seen), None)
    engine.outlook = await in_thread(look_ahead, engine)
    await engine.catalog.flush()
    await in_thread(measure_room, engine)
    _tell_of_the_future(engine)
    for listing in look.unreadable:
        logs.logger().error("a partition cannot be read", partition=listing.directory, error=listing.problem)
    return look


def measure_room(engine: Engine) -> dict[int, int]:
    """Tell the metrics how much is free, and return it for each file system."""
    for root in engine.data_dir.roots:
        engine.metrics.data_dir_free_bytes.labels(str(root.path)).set(root.free_bytes())
    free = engine.data_dir.free_by_device()
    engine.metrics.disk_free_bytes.set(sum(free.values()))
    return free


def future_segments(engine: Engine) -> int:
    """Segments whose times are in the future: by those they never grow cold."""
    return engine.catalog.later_than(engine.clock() + _CLOCKS_DIFFER_SECONDS)


def _tell_of_the_future(engine: Engine) -> None:
    if count := future_segments(engine):
        logs.logger().warning(
            "segments were modified in the future, and do not grow cold until then",
            segments=count,
            hint="If a clock was wrong, set their times right (touch), or archive them by hand",
        )


def _tell_gone(engine: Engine, identities: list[SegmentId], listing: PartitionListing | None) -> None:
    """Segments that the broker deleted before they were archived: their records are nowhere any more."""
    bases = sorted({identity.base_offset for identity in identities} | set(listing.rows if listing else ()))
    if identities and engine.policy.kafka:
        # The cleaner, which merges segments, may have begun since the last look.
        read_directories(engine)
    for identity in identities:
        if not engine.policy.covers(identity.topic) or is_compacted(engine, identity.place.partition):
            logs.logger().info("a segment that is not archived is gone from the disk", segment=identity.path)
            continue
        engine.metrics.lost.inc()
        engine.lost.append((engine.clock(), identity.path))
        above = next((base for base in bases if base > identity.base_offset), None)
        told = engine.view.offsets.get(identity.place.partition)
        end = above if above is not None else told.high_watermark if told is not None else None
        logs.logger().warning(
            "a segment is gone from the disk that was never archived",
            segment=identity.path,
            first_offset=identity.base_offset,
            last_offset=None if end is None else end - 1,
            hint="If the topic was not deleted: archive earlier, and set segment.ms well below retention.ms, as Kafka "
            "rolls and deletes an idle topic's last segment in one pass: less is in it then",
        )
