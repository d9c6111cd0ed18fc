"""Whether an archived segment may stand on the disk again, and what the partition needs beside it.

A restore mixes no logs: the segment is of the same topic as what stands there, overlaps nothing, lies on the same
branch of the log, and is not above the segment that the broker writes to.
"""

from __future__ import annotations

import os
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace

from takhin_tiered import filesystems
from takhin_tiered.catalog.catalog import Catalog
from takhin_tiered.disk.access import disk_errors, read_local_checksum
from takhin_tiered.disk.files import DataDirs, PartitionDir
from takhin_tiered.disk.kafka import LEADER_EPOCHS, PARTITION_METADATA, PartitionIdentity, read_partition
from takhin_tiered.disk.partition_scan import scan_partition
from takhin_tiered.engine.branching import incarnation_of
from takhin_tiered.engine.brokers import runs_on
from takhin_tiered.engine.fetching import LOG_LAST
from takhin_tiered.errors import SegmentConflict
from takhin_tiered.formats.checkpoints import (
    cannot_join,
    merge_leader_epochs,
    render_leader_epochs,
    render_partition_metadata,
)
from takhin_tiered.formats.tail import last_offset
from takhin_tiered.points import reached
from takhin_tiered.segments.listing import PartitionListing, has_log
from takhin_tiered.segments.manifest import Manifest
from takhin_tiered.segments.model import LocalFiles, Segment
from takhin_tiered.segments.names import TEMP_SUFFIX, FileKind, SegmentId, replica_of
from takhin_tiered.store import ReadableStore
from takhin_tiered.vault.proof import load_manifest

_KINDS_OF_VERSION_1 = {FileKind.LOG, FileKind.INDEX, FileKind.TIMEINDEX}


class Placement:
    """Places restored segments of one partition in its open directory. Its methods block.

    `look` lists the directory once for all of them, and `place` adds to what it found.
    """

    def __init__(self, catalog: Catalog, data_dir: DataDirs, partition: PartitionDir, identity: SegmentId) -> None:
        self._catalog, self._data_dir, self._partition, self._id = catalog, data_dir, partition, identity
        self._listing: PartitionListing | None = None
        self._found = PartitionIdentity("", ())
        self._logs: list[int] = []
        self._placed: dict[SegmentId, list[str]] = {}

    @property
    def is_empty(self) -> bool:
        """Whether no log stood there at the last look."""
        return not self._logs

    def has(self, identity: SegmentId) -> bool:
        """Whether this segment was placed."""
        return identity in self._placed

    def look(self) -> None:
        """`DiskError` where the directory cannot be read."""
        with disk_errors(self._id):
            self._listing = scan_partition(self._data_dir, self._id.directory)
            rows = self._listing.rows if self._listing else {}
            self._logs = sorted(base for base, row in rows.items() if has_log(row))
            self._found = read_partition(self._partition.fd)

    def neighbours(self, identity: SegmentId) -> list[SegmentId]:
        """The local logs right below and right above."""
        below, above = self._beside(identity.base_offset)
        return [_local(self._catalog, identity, base) for base in (below, above) if base is not None]

    def _beside(self, base_offset: int) -> tuple[int | None, int | None]:
        at, end = bisect_left(self._logs, base_offset), bisect_right(self._logs, base_offset)
        return self._logs[at - 1] if at else None, self._logs[end] if end < len(self._logs) else None

    def require(self, manifest: Manifest) -> None:
        """Raise `SegmentConflict`, which names both sides, where this segment may not stand in this directory."""
        identity = manifest.id
        catalog, logs, found = self._catalog, self._logs, self._found
        here = f"{identity.directory} with {_local(catalog, identity, logs[-1]).path}" if logs else identity.directory
        if manifest.topic_id and found.topic_id and manifest.topic_id != found.topic_id:
            raise _conflict(
                identity,
                f"belongs to topic ID {manifest.topic_id}, and {here} belongs to topic ID {found.topic_id}: the topic "
                "was deleted and created again",
                "Restore it to another data directory",
            )
        if not logs:
            return
        nearest = _local(catalog, identity, logs[-1])
        if not catalog.is_current(identity):
            raise _conflict(
                identity,
                f"is of incarnation {incarnation_of(catalog, identity).name}, and {nearest.full_path} on the disk "
                f"belongs to incarnation {_current_name(catalog, identity)}",
                _MIXED,
            )
        below, above = self._beside(identity.base_offset)
        if above is not None and manifest.end >= above:
            other = _local(catalog, identity, above)
            raise _conflict(
                identity, f"goes up to offset {manifest.end}, and overlaps {other.path} on the disk", _MIXED
            )
        if below is not None:
            other = _local(catalog, identity, below)
            end = end_on_disk(self._partition, other)
            if end is not None and end >= identity.base_offset:
                raise _conflict(identity, f"overlaps {other.path} on the disk, which goes up to offset {end}", _MIXED)
        is_running = _is_running(self._data_dir, identity)
        highest = next((base for base in reversed(logs) if is_running or not self._is_of_archive(base)), None)
        if highest is not None and identity.base_offset > highest:
            active = _local(catalog, identity, highest)
            raise _conflict(identity, f"stands above {active.path}, which the broker writes to", _MIXED)
        if cannot_join(found.leader_epochs, manifest.leader_epochs, manifest.end):
            raise _conflict(
                identity,
                f"is of a branch of the log that {identity.directory} has no more: it was truncated, and "
                f"{nearest.path} was written after that",
                "Restore it to another data directory",
            )

    def _is_of_archive(self, base: int) -> bool:
        """Whether a local segment has the modification time of the archived one: then a restore placed it."""
        identity = _local(self._catalog, self._id, base)
        if identity in self._placed:
            return True
        known = self._catalog.get(identity)
        log = self._listing.files(base).log if self._listing else None
        if known is None or known.archive is None or log is None:
            return False
        return log.mtime_ns == known.archive.mtime_ns

    def place(self, manifest: Manifest) -> LocalFiles:
        """Give the finished files their names: the indexes, which belong to no log before, then the log.

        `SegmentConflict` where a log has appeared there, and `OSError`; nothing has its name then.
        """
        identity, partition, local, names = manifest.id, self._partition, LocalFiles(), list[str]()
        appeared = SegmentConflict(f"{identity.path} appeared on disk during the restore", segment=identity.path)
        if not partition.is_in_place():
            raise FileNotFoundError(identity.directory)
        if partition.exists(identity.file(FileKind.LOG)):
            raise appeared
        if complete_partition(self._data_dir, partition, manifest):
            self._found = read_partition(partition.fd)
        reached("restore.partition.completed")
        try:
            for kind in LOG_LAST:
                name = identity.file(kind)
                if kind in manifest.files:
                    partition.place_temp(name, replace=kind is not FileKind.LOG)
                    names.append(name)
                elif manifest.version > 1 or kind in _KINDS_OF_VERSION_1:
                    # The manifest records this file as missing: one that an earlier log left would be a wrong index.
                    with suppress(FileNotFoundError):
                        partition.unlink(name)
                reached(f"restore.{kind}.placed")
                local = local.with_file(kind, partition.stat(name))
        except OSError as error:
            _take_back(partition, names)
            if isinstance(error, FileExistsError):
                raise appeared from error
            raise
        # Where the final name is a hard link, the temporary one may still be there.
        with suppress(OSError):
            partition.unlink(identity.file(FileKind.LOG) + TEMP_SUFFIX)
        self._placed[identity] = names
        insort(self._logs, identity.base_offset)
        return local

    def flush(self) -> None:
        """Flush the new names to the disk. `OSError`: then all that was placed is removed again."""
        try:
            if self._placed:
                self._partition.fsync()
        except OSError:
            for names in self._placed.values():
                _take_back(self._partition, names)
            self._placed.clear()
            raise


def _take_back(partition: PartitionDir, placed: list[str]) -> None:
    """Remove the log first. Where that fails, its indexes stay too, and the segment is whole."""
    with suppress(OSError):
        for name in reversed(placed):
            partition.unlink(name)


def remove_temps(partition: PartitionDir, identities: Iterable[SegmentId]) -> None:
    """Remove the temporary files of these; blocking."""
    for identity in identities:
        for kind in FileKind:
            with suppress(OSError):
                partition.unlink(identity.file(kind) + TEMP_SUFFIX)


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Compares a restored segment with the logs beside it."""

    catalog: Catalog
    data_dir: DataDirs
    store: ReadableStore

    async def require(self, placement: Placement, identity: SegmentId) -> None:
        """Raise `SegmentConflict` where the logs beside it on the disk are not the ones that were archived with it.

        The catalog may know them from the archive alone, while other files stand on the disk: restored ones, for
        example, where the catalog was lost since.
        """
        for other in placement.neighbours(identity):
            segment = self.catalog.get(other)
            if segment is None or segment.is_proven:
                continue
            if found := await self._of_another_incarnation(segment):
                raise _conflict(identity, f"would stand beside {found}, which is of another incarnation", _MIXED)
            if segment.active or segment.archive is None:
                continue
            manifest = await load_manifest(self.store, other)
            if manifest is not None:
                part_size = manifest.log.plain_part_size
                checksum = await read_local_checksum(self.data_dir, other, FileKind.LOG, part_size)
                if checksum != manifest.log.plain_sha256:
                    raise _conflict(
                        identity, f"would stand beside {other.path}, which is not what was archived of it", _MIXED
                    )

    async def _of_another_incarnation(self, segment: Segment) -> str:
        """The path of the segment of another incarnation that has the bytes of this local one; empty if none has.

        What replicas have each in a log of its own may be the same.
        """
        if replica_of(segment.id.label):
            return ""
        for incarnation in self.catalog.lineage(segment.id.place.partition).incarnations:
            other = replace(segment.id, label=incarnation.label)
            known = self.catalog.get(other)
            if incarnation.label == segment.id.label or replica_of(incarnation.label):
                continue
            if known is None or known.archive is None:
                continue
            manifest = await load_manifest(self.store, other)
            size = segment.local.log.size if segment.local.log else -1
            if manifest is not None and manifest.log.plain_size == size:
                part_size = manifest.log.plain_part_size
                checksum = await read_local_checksum(self.data_dir, segment.id, FileKind.LOG, part_size)
                if checksum == manifest.log.plain_sha256:
                    return other.exact_path
        return ""


def _current_name(catalog: Catalog, identity: SegmentId) -> str:
    lineage = catalog.lineage(identity.place.partition)
    return lineage.get(lineage.current).name


_MIXED = "Nothing was restored, as a consumer would read both mixed. Restore it to another data directory"


def complete_partition(data_dir: DataDirs, partition: PartitionDir, manifest: Manifest) -> bool:
    """Before a segment is placed: write what Kafka needs to recognise the partition, if it is missing.

    Without a topic ID a broker takes the directory for a stray. Leader epochs are merged in only while no broker runs:
    a running one keeps its own in memory, and overwrites the file. Returns whether something was written.
    """
    has_written = False
    if manifest.topic_id and not partition.exists(PARTITION_METADATA):
        _write(partition, PARTITION_METADATA, render_partition_metadata(manifest.topic_id))
        has_written = True
    if not manifest.leader_epochs or not (manifest.kafka or manifest.topic_id):
        return has_written
    if _is_running(data_dir, manifest.id):
        return has_written
    found = read_partition(partition.fd)
    if any(LEADER_EPOCHS in problem for problem in found.problems):
        return has_written
    merged = merge_leader_epochs(found.leader_epochs, [manifest.leader_epochs])
    if merged != found.leader_epochs:
        _write(partition, LEADER_EPOCHS, render_leader_epochs(merged))
        return True
    return has_written


def end_on_disk(partition: PartitionDir, identity: SegmentId) -> int | None:
    """The offset of the last record of a local segment; None where it is gone, or of no format known here."""
    with suppress(FileNotFoundError), partition.open(identity.file(FileKind.LOG)) as log:
        with suppress(FileNotFoundError), partition.open(identity.file(FileKind.INDEX)) as index:
            return last_offset(log.read, log.found.size, index.read, index.found.size)
        return last_offset(log.read, log.found.size, lambda *_: b"", 0)
    return None


def _local(catalog: Catalog, identity: SegmentId, base: int) -> SegmentId:
    """The segment of this base offset that stands on the disk, whatever incarnation the other one is of."""
    return catalog.current(identity.place.partition, base)


def _is_running(data_dir: DataDirs, identity: SegmentId) -> bool:
    root = data_dir.root_of(identity.directory)
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
