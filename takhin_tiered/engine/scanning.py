"""The scan of a cycle: the catalog takes over what the data directories show."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import closing, suppress
from dataclasses import dataclass, field
from itertools import islice

from takhin_tiered import logs
from takhin_tiered.catalog.catalog import Catalog
from takhin_tiered.concurrency import in_thread
from takhin_tiered.disk.access import require_in_place
from takhin_tiered.disk.files import DataDirs
from takhin_tiered.disk.locate import scan_located
from takhin_tiered.disk.scan import COARSEST_CLOCK, ScanMemory, scan
from takhin_tiered.engine.brokers import look_at_brokers
from takhin_tiered.engine.clock import Clock
from takhin_tiered.engine.outlook import OutlookReader, is_compacted, read_directories
from takhin_tiered.engine.pressure import PressureReader
from takhin_tiered.engine.situation import Situation
from takhin_tiered.errors import DiskError
from takhin_tiered.metrics import Metrics
from takhin_tiered.segments.listing import PartitionListing
from takhin_tiered.segments.names import Partition, SegmentId, parse_partition

_LISTINGS_AT_ONCE = 4
_WRITES_AT_ONCE = 20_000
_CLOCKS_DIFFER_SECONDS = 3600.0
_MOST_LOOKED = 100_000


@dataclass(slots=True)
class Findings:
    """What a scan found besides segments: unfinished files of a restore, and partitions that cannot be read."""

    unfinished: list[PartitionListing] = field(default_factory=list)
    unreadable: list[PartitionListing] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Scanner:
    """Brings the catalog up to date with the data directories."""

    catalog: Catalog
    data_dir: DataDirs
    clock: Clock
    situation: Situation
    metrics: Metrics
    outlook_reader: OutlookReader
    pressure: PressureReader
    memory: ScanMemory = field(default_factory=ScanMemory)
    # Segments that left the disk before they were archived, with when that was seen; not yet in the journal.
    lost: list[tuple[float, str]] = field(default_factory=list)
    # Set once the disk has been scanned.
    done: asyncio.Event = field(default_factory=asyncio.Event)
    # The directories of partitions as they stood at the last `look_at`.
    _looked: dict[str, tuple[int, int, int]] = field(default_factory=dict)

    async def scan(self) -> Findings:
        """Scan the data directories, and take over what it shows. `DiskError` where one cannot be read.

        What is known of a partition that cannot be read stays as it is.
        """
        found = Findings()
        await in_thread(require_in_place, self.data_dir)
        await in_thread(look_at_brokers, self.situation, self.data_dir)
        self.catalog.begin_scan()
        seen: set[tuple[str, int]] = set()
        listings = scan(self.data_dir, self.memory, self.catalog.unsettled_offsets, known=len(self.catalog))
        try:
            with closing(listings):
                while batch := await in_thread(lambda: list(islice(listings, _LISTINGS_AT_ONCE))):
                    for listing in batch:
                        seen.add((listing.topic, listing.partition))
                        if listing.problem:
                            found.unreadable.append(listing)
                            continue
                        self._report_lost(self.catalog.observe(listing), listing)
                        if listing.unfinished:
                            found.unfinished.append(listing)
                        # Other tasks of the loop run between two partitions.
                        await asyncio.sleep(0)
                    if self.catalog.unwritten > _WRITES_AT_ONCE:
                        await self.catalog.flush()
        except OSError as error:
            raise DiskError(
                f"the data directory {error.filename or self.data_dir} cannot be read: {error.strerror or error}",
                hint="Nothing is moved until it can",
            ) from error
        self._report_lost(self.catalog.observe_missing(seen), None)
        outlook = await in_thread(self.outlook_reader.look_ahead)
        self.situation.outlook = await in_thread(self.pressure.under_pressure, outlook)
        await self.catalog.flush()
        await in_thread(measure_room, self.data_dir, self.metrics)
        self.done.set()
        _warn_of_future_times(self.catalog, self.clock)
        for listing in found.unreadable:
            logs.logger().error("a partition cannot be read", partition=listing.directory, error=listing.problem)
        return found

    async def look_at(self, partition: Partition, *, again: bool = False) -> None:
        """Take over what stands in one partition's directory, if names in it have changed since the last such look.

        Cheap, for readers: a broker may have rolled or deleted segments since the last scan. ``again``: look whether or
        not they have. A directory that cannot be read stays as it is known.
        """
        name = f"{partition[0]}-{partition[1]}"
        if parse_partition(name) != partition:
            return
        with suppress(OSError):
            listing = await in_thread(self._changed, name, again=again)
            if listing is not None and not listing.problem:
                self._report_lost(self.catalog.observe(listing), listing)

    def _changed(self, name: str, *, again: bool) -> PartitionListing | None:
        root = self.data_dir.root_of(name)
        if root is None:
            parsed = parse_partition(name)
            return PartitionListing(*parsed, {}, None) if again and parsed is not None else None
        status = os.stat(name, dir_fd=root.fd, follow_symlinks=False)
        now = status.st_mtime_ns, status.st_ino, status.st_dev
        if not again and self._looked.get(name) == now:
            return None
        scanned = scan_located(self.data_dir, name)
        if len(self._looked) >= _MOST_LOOKED:
            self._looked.clear()
        if time.time() - status.st_mtime > COARSEST_CLOCK:
            self._looked[name] = now
        else:
            self._looked.pop(name, None)
        return None if scanned is None else scanned.listing

    def _report_lost(self, identities: list[SegmentId], listing: PartitionListing | None) -> None:
        """Report segments that the broker deleted before they were archived: their records are lost."""
        bases = sorted({identity.base_offset for identity in identities} | set(listing.rows if listing else ()))
        if identities and self.situation.policy.kafka:
            # The cleaner, which merges segments, may have begun since the last look.
            read_directories(self.situation.view, self.data_dir)
        for identity in identities:
            if not self.situation.policy.covers(identity.topic) or is_compacted(
                self.situation.view, self.catalog, identity.place.partition
            ):
                logs.logger().info("a segment that is not archived is gone from the disk", segment=identity.path)
                continue
            self.metrics.lost.inc()
            self.lost.append((self.clock.now(), identity.path))
            above = next((base for base in bases if base > identity.base_offset), None)
            told = self.situation.view.offsets.get(identity.place.partition)
            end = above if above is not None else told.high_watermark if told is not None else None
            logs.logger().warning(
                "a segment is gone from the disk that was never archived",
                segment=identity.path,
                first_offset=identity.base_offset,
                last_offset=None if end is None else end - 1,
                hint="If the topic was not deleted: archive earlier, and set segment.ms well below retention.ms, as "
                "Kafka rolls and deletes an idle topic's last segment in one pass: less is in it then",
            )


def measure_room(data_dir: DataDirs, metrics: Metrics) -> dict[int, int]:
    """Tell the metrics how much is free, and return it for each file system."""
    for root in data_dir.roots:
        metrics.data_dir_free_bytes.labels(str(root.path)).set(root.free_bytes())
    free = data_dir.free_by_device()
    metrics.disk_free_bytes.set(sum(free.values()))
    return free


def future_segments(catalog: Catalog, clock: Clock) -> int:
    """Segments whose times are in the future: by those they never grow cold."""
    return catalog.later_than(clock.now() + _CLOCKS_DIFFER_SECONDS)


def _warn_of_future_times(catalog: Catalog, clock: Clock) -> None:
    if count := future_segments(catalog, clock):
        logs.logger().warning(
            "segments were modified in the future, and do not grow cold until then",
            segments=count,
            hint="If a clock was wrong, set their times right (touch), or archive them by hand",
        )
