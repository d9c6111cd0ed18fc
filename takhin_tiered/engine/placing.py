"""Whether an archived segment may stand on the disk again, and what the partition needs beside it.

A restore mixes no logs: the segment is of the same topic as what stands there, overlaps nothing, lies on the same
branch of the log, and is not above the segment that the broker writes to. Everything here blocks.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import replace

from takhin_tiered import filesystems
from takhin_tiered.concurrency import in_thread
from takhin_tiered.disk.access import read_local_checksum
from takhin_tiered.disk.files import PartitionDir
from takhin_tiered.disk.kafka import LEADER_EPOCHS, PARTITION_METADATA, read_partition
from takhin_tiered.disk.look import scan_partition
from takhin_tiered.engine.branching import incarnation_of
from takhin_tiered.engine.brokers import runs_on
from takhin_tiered.engine.context import Engine
from takhin_tiered.errors import SegmentConflict
from takhin_tiered.formats.checkpoints import (
    cannot_join,
    merge_leader_epochs,
    render_leader_epochs,
    render_partition_metadata,
)
from takhin_tiered.formats.tail import last_offset
from takhin_tiered.segments.listing import PartitionListing, has_log
from takhin_tiered.segments.manifest import Manifest
from takhin_tiered.segments.model import Segment
from takhin_tiered.segments.names import FileKind, SegmentId
from takhin_tiered.vault.proof import load_manifest


def require_place(engine: Engine, manifest: Manifest, partition: PartitionDir) -> bool:
    """Raise `SegmentConflict`, which names both sides, where this segment may not stand in this directory.

    Returns whether no log stands there yet.
    """
    identity = manifest.id
    listing = scan_partition(engine.data_dir, identity.directory)
    logs = sorted(base for base, row in listing.rows.items() if has_log(row)) if listing else []
    found = read_partition(partition.fd)
    here = f"{identity.directory} with {_local(engine, identity, logs[-1]).path}" if logs else identity.directory
    if manifest.topic_id and found.topic_id and manifest.topic_id != found.topic_id:
        raise _conflict(
            identity,
            f"belongs to topic ID {manifest.topic_id}, and {here} belongs to topic ID {found.topic_id}: the topic was "
            "deleted and created again",
            "Restore it to another data directory",
        )
    if listing is None or not logs:
        return True
    nearest = _local(engine, identity, logs[-1])
    if not engine.catalog.is_current(identity):
        raise _conflict(
            identity,
            f"is of incarnation {incarnation_of(engine, identity).name}, and {nearest.full_path} on the disk belongs "
            f"to incarnation {_current_name(engine, identity)}",
            _MIXED,
        )
    below = max((base for base in logs if base < identity.base_offset), default=None)
    above = min((base for base in logs if base > identity.base_offset), default=None)
    if above is not None and manifest.end >= above:
        other = _local(engine, identity, above)
        raise _conflict(identity, f"goes up to offset {manifest.end}, and overlaps {other.path} on the disk", _MIXED)
    if below is not None:
        other = _local(engine, identity, below)
        end = end_on_disk(partition, other)
        if end is not None and end >= identity.base_offset:
            raise _conflict(identity, f"overlaps {other.path} on the disk, which goes up to offset {end}", _MIXED)
    is_running = _is_running(engine, identity)
    brokers_own = [base for base in logs if is_running or not _is_of_archive(engine, listing, identity, base)]
    if brokers_own and identity.base_offset > brokers_own[-1]:
        active = _local(engine, identity, brokers_own[-1])
        raise _conflict(identity, f"stands above {active.path}, which the broker writes to", _MIXED)
    if cannot_join(found.leader_epochs, manifest.leader_epochs, manifest.end):
        raise _conflict(
            identity,
            f"is of a branch of the log that {identity.directory} has no more: it was truncated, and {nearest.path} "
            "was written after that",
            "Restore it to another data directory",
        )
    return False


async def require_neighbours(engine: Engine, identity: SegmentId) -> None:
    """Raise `SegmentConflict` where the logs beside it on the disk are not the ones that were archived with it.

    What is known of them may come from the archive alone, and another log may stand there: one that was restored,
    before the catalog was lost.
    """
    for other in await in_thread(_neighbours, engine, identity):
        segment = engine.catalog.get(other)
        if segment is None or segment.is_proven:
            continue
        if found := await _of_another_incarnation(engine, segment):
            raise _conflict(identity, f"would stand beside {found}, which is of another incarnation", _MIXED)
        if segment.active or segment.archive is None:
            continue
        manifest = await load_manifest(engine.store, other)
        if manifest is not None:
            checksum = await read_local_checksum(engine.data_dir, other, FileKind.LOG, manifest.log.part_size)
            if checksum != manifest.log.sha256:
                raise _conflict(
                    identity, f"would stand beside {other.path}, which is not what was archived of it", _MIXED
                )


async def _of_another_incarnation(engine: Engine, segment: Segment) -> str:
    """The path of the archived segment that this local one is, in another incarnation; empty if it is of none."""
    for incarnation in engine.catalog.lineage(segment.id.place.partition).incarnations:
        other = replace(segment.id, label=incarnation.label)
        known = engine.catalog.get(other)
        if incarnation.label == segment.id.label or known is None or known.archive is None:
            continue
        manifest = await load_manifest(engine.store, other)
        if manifest is not None and manifest.log.size == (segment.local.log.size if segment.local.log else -1):
            checksum = await read_local_checksum(engine.data_dir, segment.id, FileKind.LOG, manifest.log.part_size)
            if checksum == manifest.log.sha256:
                return other.exact_path
    return ""


def _neighbours(engine: Engine, identity: SegmentId) -> list[SegmentId]:
    """The local logs right below and right above."""
    listing = scan_partition(engine.data_dir, identity.directory)
    logs = [base for base, row in listing.rows.items() if has_log(row)] if listing else []
    below = max((base for base in logs if base < identity.base_offset), default=None)
    above = min((base for base in logs if base > identity.base_offset), default=None)
    return [_local(engine, identity, base) for base in (below, above) if base is not None]


def _current_name(engine: Engine, identity: SegmentId) -> str:
    lineage = engine.catalog.lineage(identity.place.partition)
    return lineage.get(lineage.current).name


_MIXED = "Nothing was restored, as a consumer would read both mixed. Restore it to another data directory"


def complete_partition(engine: Engine, partition: PartitionDir, manifest: Manifest) -> None:
    """Before a segment is placed: what Kafka needs to know the partition by, if it is not there.

    Without its topic ID a broker takes the directory for a stray. Leader epochs are merged in while no broker runs, as
    a running one keeps its own in memory and writes them over.
    """
    if manifest.topic_id and not partition.exists(PARTITION_METADATA):
        _write(partition, PARTITION_METADATA, render_partition_metadata(manifest.topic_id))
    if not manifest.leader_epochs or not (manifest.kafka or manifest.topic_id):
        return
    if _is_running(engine, manifest.id):
        return
    found = read_partition(partition.fd)
    if any(LEADER_EPOCHS in problem for problem in found.problems):
        return
    merged = merge_leader_epochs(found.leader_epochs, [manifest.leader_epochs])
    if merged != found.leader_epochs:
        _write(partition, LEADER_EPOCHS, render_leader_epochs(merged))


def end_on_disk(partition: PartitionDir, identity: SegmentId) -> int | None:
    """The offset of the last record of a local segment; None where it is gone, or of no format known here."""
    with suppress(FileNotFoundError), partition.open(identity.file(FileKind.LOG)) as log:
        with suppress(FileNotFoundError), partition.open(identity.file(FileKind.INDEX)) as index:
            return last_offset(log.read, log.found.size, index.read, index.found.size)
        return last_offset(log.read, log.found.size, lambda *_: b"", 0)
    return None


def _local(engine: Engine, identity: SegmentId, base: int) -> SegmentId:
    """The segment of this base offset that stands on the disk, whatever incarnation the other one is of."""
    return engine.catalog.current(identity.place.partition, base)


def _is_of_archive(engine: Engine, listing: PartitionListing, identity: SegmentId, base: int) -> bool:
    """Whether a local segment has the time of the archived one, as a restore gives it, killed or not."""
    known = engine.catalog.get(_local(engine, identity, base))
    log = listing.files(base).log
    return (
        known is not None and known.archive is not None and log is not None and log.mtime_ns == known.archive.mtime_ns
    )


def _is_running(engine: Engine, identity: SegmentId) -> bool:
    root = engine.data_dir.root_of(identity.directory)
    return root is not None and runs_on(root)


def _write(partition: PartitionDir, name: str, content: bytes) -> None:
    """Whole or not at all, as the broker writes it."""
    fd = partition.create_temp(name, 0o644)
    try:
        os.write(fd, content)
        filesystems.set_mode(fd, 0o644)
        filesystems.give_to_owner_of(partition.fd, fd)
        filesystems.sync_file(fd)
    finally:
        os.close(fd)
    partition.place_temp(name, replace=True)


def _conflict(identity: SegmentId, what: str, hint: str) -> SegmentConflict:
    return SegmentConflict(f"the archived segment {identity.full_path} {what}", segment=identity.path, hint=hint)
