"""Fetch the files of archived segments under their temporary names, compared with the manifest and flushed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from takhin_tiered import work
from takhin_tiered.catalog.catalog import Catalog
from takhin_tiered.concurrency import all_of, in_thread
from takhin_tiered.disk.access import disk_errors, open_partition
from takhin_tiered.disk.files import DataDirs, PartitionDir
from takhin_tiered.engine.incoming import Incoming, Range, SplicedRange
from takhin_tiered.engine.limits import Limits
from takhin_tiered.errors import SegmentChanged, TakhinError
from takhin_tiered.metrics import Metrics
from takhin_tiered.points import reached
from takhin_tiered.segments.listing import PartitionListing
from takhin_tiered.segments.manifest import Manifest
from takhin_tiered.segments.names import TEMP_SUFFIX, FileKind, SegmentId, parse_file
from takhin_tiered.store import ReadableStore
from takhin_tiered.vault.decoding import Decoder
from takhin_tiered.vault.opened import SMALL
from takhin_tiered.vault.plain import PlainFile
from takhin_tiered.vault.splicing import read_spliced

LOG_LAST = (*(kind for kind in FileKind if kind is not FileKind.LOG), FileKind.LOG)


class Fetch:
    """The files of one segment on their way. `fetch` first, then `write` in a thread.

    ``decoders`` are those of its encoded files, ``sources`` the logs that the parts of a spliced one are of.
    """

    def __init__(
        self,
        store: ReadableStore,
        limits: Limits,
        metrics: Metrics,
        *,
        partition: PartitionDir,
        manifest: Manifest,
        decoders: Mapping[FileKind, Decoder],
        sources: Sequence[PlainFile],
        work: work.Work,
    ) -> None:
        self._store, self._limits, self._metrics = store, limits, metrics
        self._partition, self._manifest, self._work = partition, manifest, work
        self._decoders, self._sources = decoders, sources
        self._small: dict[FileKind, bytes] = {}
        self.error: TakhinError | None = None

    async def fetch(self) -> None:
        """Large files go to the disk, small ones into memory. `StoreError` or `DiskError`."""
        small = [kind for kind in LOG_LAST if kind in self._manifest.files and self._is_small(kind)]
        for kind in LOG_LAST:
            if kind in self._manifest.files and kind not in small:
                await self._fetch_large(self._incoming(kind))
                reached(f"restore.{kind}.downloaded")
        self._small = dict(zip(small, await all_of([self._read(kind) for kind in small]), strict=True))

    def write(self) -> None:
        """What came into memory goes to the disk; blocking. Its failure is in ``error``."""
        try:
            with work.counting(self._work):
                for kind, data in self._small.items():
                    self._incoming(kind).write_whole(data)
                    reached(f"restore.{kind}.downloaded")
        except TakhinError as error:
            error.segment = error.segment or self._manifest.id.path
            self.error = error
        self._small = {}

    def _is_small(self, kind: FileKind) -> bool:
        file = self._manifest.files[kind]
        # A file of zeros may be a thousand times its object.
        return not file.parts and max(file.size, file.plain_size) <= SMALL

    def _incoming(self, kind: FileKind) -> Incoming:
        return Incoming(
            self._partition,
            self._manifest.id,
            kind,
            self._manifest.files[kind],
            self._decoders.get(kind),
            pace=self._limits.downloads,
            metrics=self._metrics,
        )

    async def _read(self, kind: FileKind) -> bytes:
        file = self._manifest.files[kind]
        async with self._limits.requests:
            # One more than it should have shows an object that grew.
            return await self._store.read(file.key, limit=file.size + 1)

    async def _fetch_large(self, incoming: Incoming) -> None:
        ranges = incoming.ranges
        try:
            await in_thread(incoming.create)
            if isinstance(whole := ranges[0], SplicedRange):
                async with self._limits.ranges:
                    await read_spliced(incoming.archived.parts, self._sources, whole.take, whole.came)
            elif len(ranges) == 1 and incoming.decoder is None:
                await self._fetch_range(incoming, ranges[0], None)
            else:
                await all_of([self._fetch_one_of(incoming, each) for each in ranges])
            await in_thread(incoming.finish)
        finally:
            incoming.close()

    async def _fetch_one_of(self, incoming: Incoming, part: Range) -> None:
        # The last one goes on to the end, wherever that is: an object that grew is not what was archived.
        end = part.stored_end if part.stored_end < incoming.archived.size else None
        async with self._limits.ranges:
            await self._fetch_range(incoming, part, end)

    async def _fetch_range(self, incoming: Incoming, part: Range, end: int | None) -> None:
        key, start = incoming.archived.key, part.stored_start
        if incoming.decoder is None:
            with disk_errors(incoming.identity):
                await self._store.fetch_into(key, incoming.fd, start=start, end=end, seen=part.see)
            return
        # The stored bytes go nowhere: on the way they are decoded, and what they give is written.
        with Path(os.devnull).open("wb", buffering=0) as nothing:  # noqa: ASYNC230 - it never blocks
            await self._store.fetch_into(key, nothing.fileno(), start=start, end=end, seen=part.see)


def write_all(fetches: Sequence[Fetch]) -> None:
    """Blocking."""
    for fetch in fetches:
        fetch.write()


async def remove_unfinished(catalog: Catalog, data_dir: DataDirs, listing: PartitionListing) -> None:
    """Take away the temporary files of a restore that was killed; one that runs holds its segment's lock."""
    for name in listing.unfinished:
        file = parse_file(name.removesuffix(TEMP_SUFFIX))
        if file is None:
            continue
        identity = SegmentId(listing.topic, listing.partition, file[0])

        def remove(identity: SegmentId = identity, name: str = name) -> None:
            with suppress(SegmentChanged), open_partition(data_dir, identity) as partition:
                partition.unlink(name)

        if catalog.is_held(identity):
            # A running restore is still using its temporary files.
            continue
        async with catalog.lock(identity):
            await in_thread(remove)
