"""Refresh single segments: the catalog takes over how their files stand on the disk now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from takhin_tiered.catalog.catalog import Catalog
from takhin_tiered.concurrency import in_thread
from takhin_tiered.disk.access import disk_errors, is_behind
from takhin_tiered.disk.files import DataDirs, PartitionDir
from takhin_tiered.disk.partition_scan import scan_partition
from takhin_tiered.errors import SegmentChanged, SegmentNotFound, TakhinError
from takhin_tiered.segments.listing import PartitionListing, pack_seen
from takhin_tiered.segments.model import LocalFiles, Segment
from takhin_tiered.segments.names import SegmentId
from takhin_tiered.vault.opened import OpenSegment
from takhin_tiered.verbs import only


async def refresh(catalog: Catalog, data_dir: DataDirs, identity: SegmentId) -> Segment | None:
    """Look at one segment's files again, and whether its partition still has a later log.

    To be called with the segment's lock held. None if it is neither on disk nor known to be archived.
    """
    return only(await refresh_together(catalog, data_dir, [identity]))


async def refresh_together(
    catalog: Catalog,
    data_dir: DataDirs,
    identities: Sequence[SegmentId],
    opened: Mapping[SegmentId, OpenSegment] | None = None,
) -> list[Segment | TakhinError | None]:
    """The same for segments of one partition, in one look; an error for each that cannot be looked at.

    Segments that have an `OpenSegment` are opened in the same thread call. One that cannot be opened stays closed.
    """
    # Files under the name of a segment that is not current belong to another incarnation.
    current = [identity for identity in identities if catalog.is_current(identity)]
    active = catalog.active_offset(identities[0])
    listings = await in_thread(_look_again, data_dir, current, active, opened or {}) if current else {}
    found: list[Segment | TakhinError | None] = []
    for identity in identities:
        listing = listings.get(identity)
        if listing is None:
            found.append(catalog.get(identity))
        else:
            found.append(listing if isinstance(listing, TakhinError) else _take_over(catalog, identity, listing))
    return found


def _take_over(catalog: Catalog, identity: SegmentId, listing: PartitionListing) -> Segment | None:
    known = catalog.get(identity)
    files = listing.files(identity.base_offset)
    if known is None and files.log is None:
        return None
    known = known or Segment(identity)
    if files.log is None and known.archive is None:
        return None
    fresh = replace(
        known,
        local=files,
        active=identity.base_offset in {listing.active, listing.written_later} or catalog.may_be_active(identity),
        lease_until=known.lease_until if files.log is not None else 0.0,
    )
    if fresh == known:
        catalog.confirm(identity)
    else:
        catalog.put(fresh)
    return fresh


def _look_again(
    data_dir: DataDirs, identities: Sequence[SegmentId], active: int, opened: Mapping[SegmentId, OpenSegment]
) -> dict[SegmentId, PartitionListing | TakhinError]:
    """Stat the files of each, where the log that was active is still there; else scan the partition."""
    found: dict[SegmentId, PartitionListing | TakhinError] = {}
    first = identities[0]
    nothing = PartitionListing(first.topic, first.partition, {}, None)
    whole: PartitionListing | None = None
    try:
        with disk_errors(first), data_dir.partition(first.directory) as partition:
            for identity in identities:
                try:
                    with disk_errors(identity):
                        if is_behind(partition, identity, active):
                            files = _stats_of(partition, identity, opened.get(identity))
                            rows = {identity.base_offset: pack_seen(files)}
                            found[identity] = PartitionListing(identity.topic, identity.partition, rows, active)
                        else:
                            whole = whole or scan_partition(data_dir, first.directory) or nothing
                            found[identity] = whole
                except TakhinError as error:
                    found[identity] = error
    except SegmentChanged:
        # There is no such partition.
        return dict.fromkeys(identities, nothing)
    except TakhinError as error:
        return dict.fromkeys(identities, error)
    return found


def _stats_of(partition: PartitionDir, identity: SegmentId, opened: OpenSegment | None) -> LocalFiles:
    if opened is None:
        return partition.stat_all(identity)
    try:
        opened.open(partition)
        return opened.stats
    except OSError:
        opened.close()
        return partition.stat_all(identity)


def require_known(segment: Segment | None, identity: SegmentId) -> Segment:
    if segment is None:
        raise unknown(identity)
    return segment


def unknown(identity: SegmentId, hint: str = "takhin-tiered ls shows what there is") -> SegmentNotFound:
    return SegmentNotFound(
        f"segment {identity.full_path} is neither on disk nor in the archive", segment=identity.path, hint=hint
    )
