"""Choose what a restore brings back: by path, offsets or times, and only what the broker will keep and serve."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import groupby, pairwise
from typing import Any

from takhin_tiered.catalog.catalog import Catalog
from takhin_tiered.concurrency import in_thread
from takhin_tiered.cost.retrieving import Quote
from takhin_tiered.disk.files import DataDirs
from takhin_tiered.disk.kafka import PARTITION_METADATA, read_log_directory
from takhin_tiered.disk.partition_scan import scan_partition
from takhin_tiered.engine.clock import Clock
from takhin_tiered.engine.coverage import CoverageReader, without_others
from takhin_tiered.engine.naming import has_incarnation, known_segment, named_incarnation
from takhin_tiered.engine.outlook import is_compacted
from takhin_tiered.engine.situation import Situation
from takhin_tiered.errors import ObjectCorrupt, SegmentConflict, SegmentNotFound
from takhin_tiered.segments.choice import (
    Candidate,
    Wanted,
    gap_problem,
    log_start_problem,
    meets,
    quarantine_problem,
    retention_problem,
)
from takhin_tiered.segments.coverage import Range
from takhin_tiered.segments.listing import has_log
from takhin_tiered.segments.manifest import Manifest
from takhin_tiered.segments.model import Segment, State
from takhin_tiered.segments.names import Partition, SegmentId, parse_partition
from takhin_tiered.segments.results import to_json
from takhin_tiered.store import ReadableStore
from takhin_tiered.vault.proof import load_manifest

_AT_ONCE = 16
_GLOB_CHARACTERS = frozenset("*?[")


@dataclass(slots=True)
class Choice:
    """``segments`` are to be restored, those of a partition from the highest on, next to what is on the disk.

    ``problems`` say why others are not; ``matched`` counts the segments that the paths name, and ``meant`` those of
    them that have what is wanted, on the disk or not. ``in_order``: where one cannot be restored, what is below it in
    its partition must not be either.
    """

    segments: list[Segment] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    matched: int = 0
    meant: int = 0
    in_order: bool = False

    def warn(self, warning: str) -> None:
        """Once."""
        if warning not in self.warnings:
            self.warnings.append(warning)

    @property
    def size(self) -> int:
        """Bytes that are to be downloaded."""
        return sum(segment.archive.size for segment in self.segments if segment.archive and not segment.local.log)


def describe_choice(choice: Choice, room: tuple[int, int], quote: Quote) -> dict[str, Any]:
    """Ready for JSON. ``room``: bytes that the disk and the local cache have left. ``quote``: what it will cost."""
    return {
        "segments": [
            {"segment_path": segment.id.exact_path, "size_bytes": segment.size} for segment in choice.segments
        ],
        "matched": choice.matched,
        "bytes": choice.size,
        "disk_free_bytes": room[0],
        "cache_free_bytes": room[1],
        "in_order": choice.in_order,
        "cost": to_json(quote),
        "problems": choice.problems,
        "warnings": choice.warnings,
    }


@dataclass(frozen=True, slots=True)
class Chooser:
    """Chooses the segments that a restore brings back."""

    catalog: Catalog
    data_dir: DataDirs
    store: ReadableStore
    clock: Clock
    situation: Situation
    coverage: CoverageReader

    async def choose(self, wanted: Wanted) -> Choice:
        """Raises `InvalidSegmentPath`, `SegmentNotFound` (a path, a glob, or an incarnation), and `StoreError`."""
        choice = Choice(in_order=self.situation.policy.kafka and not wanted.force)
        found: dict[SegmentId, Segment] = {}
        for path in wanted.paths:
            matching = await in_thread(self._matched, wanted, path)
            if not matching:
                of_it = f" in incarnation {wanted.topic_id}" if wanted.topic_id else ""
                raise SegmentNotFound(
                    f"no segment matches {path!r}{of_it}", hint="takhin-tiered ls shows what there is"
                )
            found |= {segment.id: segment for segment in matching}
        choice.matched = len(found)
        by_partition = groupby((found[identity] for identity in sorted(found)), key=lambda s: s.id.place.partition)
        for partition, group in [(partition, list(group)) for partition, group in by_partition]:
            await self._choose_in(wanted, partition, group, choice)
        self._compare_with_cache(choice)
        if not choice.meant:
            raise SegmentNotFound(
                f"no segment of {', '.join(wanted.paths)} has any of the offsets or times that are wanted",
                hint="takhin-tiered ls --partitions shows what there is",
            )
        return choice

    def _compare_with_cache(self, choice: Choice) -> None:
        """A restore may be larger than the cache: it stays for its lease, and the disk has to have the room."""
        if not self.situation.policy.unlinks_somewhere:
            return
        taken = sum(segment.local.size for segment in self.catalog.restored())
        if choice.size and taken + choice.size > self.situation.policy.cache_size:
            choice.warn(
                f"with these, restored segments take {taken + choice.size} bytes, and the local cache has "
                f"{self.situation.policy.cache_size} (storage.tiered.local.cache.size.mb): all of them stay for their "
                "lease, which --for sets"
            )

    def _matched(self, wanted: Wanted, path: str) -> list[Segment]:
        return list(self._matching(wanted, path))

    def _matching(self, wanted: Wanted, path: str) -> Iterator[Segment]:
        """What one path, partition or glob means; of the current incarnation, or of the one that is named."""
        if _is_exact(path):
            yield known_segment(self.catalog, path, wanted.topic_id)
            return
        head, slash, _ = path.partition("/")
        for partition in self.catalog.partitions():
            directory = f"{partition[0]}-{partition[1]}"
            # A star at the end, without a slash behind it, also matches the names of segments.
            whole = fnmatchcase(directory, path) or (not slash and fnmatchcase(f"{directory}/", path))
            if not whole and not fnmatchcase(directory, head) and not head.endswith("*.log"):
                continue
            label = None
            if wanted.topic_id:
                if not has_incarnation(self.catalog, wanted.topic_id, partition):
                    continue
                label = named_incarnation(self.catalog, partition, wanted.topic_id)

            def is_meant(base_offset: int, partition: Partition = partition, whole: bool = whole) -> bool:
                return whole or fnmatchcase(SegmentId(*partition, base_offset).path, path)

            yield from self.catalog.log_of(partition, label, is_meant)

    async def _choose_in(self, wanted: Wanted, partition: Partition, group: list[Segment], choice: Choice) -> None:
        """Choose the segments of one partition, or note the problems that prevent it."""
        label = None
        if not all(self.catalog.is_current(segment.id) for segment in group):
            label = (
                named_incarnation(self.catalog, partition, wanted.topic_id) if wanted.topic_id else group[-1].id.label
            )
        log = without_others(await in_thread(self.catalog.log_of, partition, label))
        span_of = dict(zip((s.id for s in log), await in_thread(self.coverage.spans, log), strict=True))
        explicit = {SegmentId.parse(path).path for path in wanted.paths if _is_exact(path)}
        group = [s for s in group if s.id in span_of or s.id.path in explicit or not s.is_others]
        if mixed := [s for s in group if s.id not in span_of and self.catalog.get(s.id) is not None]:
            raise SegmentConflict(
                f"{mixed[0].id.exact_path} and {log[0].id.exact_path if log else group[0].id.directory} are of two "
                "incarnations: restore one of them, and the other to another data directory",
                segment=mixed[0].id.path,
            )
        # An expire may have removed some meanwhile.
        group = [segment for segment in group if segment.id in span_of]
        meant = [segment for segment in group if meets(wanted.offsets, *span_of[segment.id])]
        manifests: dict[SegmentId, Manifest] = {}
        settings = self.situation.view.topics.get(partition[0])
        if wanted.has_times or settings is not None:
            manifests = await self._manifests([s for s in meant if s.archive is not None and s.local.log is None])
        if wanted.has_times:
            meant = [segment for segment in meant if meets(wanted.times, *_times(segment, manifests.get(segment.id)))]
        choice.meant += len(meant)
        for segment, beyond in _reaching_beyond(log):
            if segment in meant and segment.local.log is None:
                told = (
                    f"{segment.id.exact_path} is not restored: it overlaps {beyond.id.full_path}, where this log begins"
                )
                (choice.problems.append if segment.id.path in explicit else choice.warn)(told)
                meant.remove(segment)
        away = [segment for segment in meant if segment.state is State.ARCHIVED]
        here = [segment for segment in meant if segment.state is not State.ARCHIVED and segment.id.path in explicit]
        if (
            away
            and not self.situation.policy.kafka
            and not wanted.force
            and (told := await self._topic_problem(away[0]))
        ):
            choice.warn(f"If the data directory is Kafka's: {told}")
        if away and self.situation.policy.kafka and not wanted.force and self.catalog.is_current(away[0].id):
            candidates = [Candidate(s.id.path, span_of[s.id], s.size, _times(s, manifests.get(s.id))[1]) for s in away]
            local = await in_thread(self._local_spans, log, span_of)
            directory = away[0].id.directory
            archived = [span_of[segment.id] for segment in log if segment.archive is not None]
            problems = [
                gap_problem(directory, candidates, local, archived)
                if not is_compacted(self.situation.view, self.catalog, partition)
                else "",
                quarantine_problem(
                    directory, candidates, [c for c, s in zip(candidates, away, strict=True) if s.quarantine]
                ),
                await self._topic_problem(away[0]),
                log_start_problem(directory, candidates, await in_thread(_log_start, self.data_dir, partition)),
            ]
            if settings is not None:
                size = sum(segment.local.size for segment in log)
                problems.append(retention_problem(directory, candidates, size, settings, self.clock.now()))
            else:
                choice.warn(
                    f"Kafka's retention of {partition[0]} is not known (storage.tiered.broker.bootstrap): what is past "
                    "it, Kafka deletes again at its next check"
                )
            choice.problems += filter(None, problems)
            if any(problems):
                return
        choice.segments += sorted([*away, *here], key=lambda segment: segment.id.base_offset, reverse=True)

    async def _topic_problem(self, segment: Segment) -> str:
        """Why Kafka would not know the topic of this log; empty where it would.

        Without a topic ID Kafka takes the directory for a stray one. Earlier releases archived no topic ID.
        """
        identity = segment.id

        def has_metadata() -> bool:
            with suppress(FileNotFoundError), self.data_dir.partition(identity.directory) as partition:
                return partition.exists(PARTITION_METADATA)
            return False

        manifest = (await self._manifests([segment])).get(identity)
        if manifest is None or manifest.topic_id or not manifest.may_lack_files or await in_thread(has_metadata):
            return ""
        told = (
            f"the archive tells no topic ID of {identity.directory}, and there is no {PARTITION_METADATA} on the disk: "
            f"Kafka would take the log for a stray one. Make {identity.directory}/{PARTITION_METADATA} first, with the "
            "lines 'version: 0' and 'topic_id: ID'; kafka-topics.sh --describe tells the ID"
        )
        return f"{told}. --force restores all the same"

    async def _manifests(self, segments: list[Segment]) -> dict[SegmentId, Manifest]:
        room = asyncio.Semaphore(_AT_ONCE)

        async def load(identity: SegmentId) -> Manifest | None:
            async with room:
                try:
                    return await load_manifest(self.store, identity)
                except ObjectCorrupt:
                    # The restore of that segment reports it.
                    return None

        found = await asyncio.gather(*(load(segment.id) for segment in segments))
        return {manifest.id: manifest for manifest in found if manifest is not None}

    def _local_spans(self, log: list[Segment], span_of: dict[SegmentId, Range]) -> list[Range]:
        """The offsets on the disk now. Of a log that the last scan did not see, only the base offset is known."""
        listing = scan_partition(self.data_dir, log[0].id.directory)
        bases = {base for base, row in listing.rows.items() if has_log(row)} if listing else set[int]()
        known = {segment.id.base_offset: span_of[segment.id] for segment in log}
        return [span if (span := known.get(base)) and span[1] >= base else (base, base) for base in sorted(bases)]


def _reaching_beyond(log: list[Segment]) -> Iterator[tuple[Segment, Segment]]:
    """Archived segments of the incarnation that a log follows, with records above where it begins; and what is there.

    Those records are of this log too where a replica rolled its segments at other offsets; else they were truncated.
    """
    for segment, above in pairwise(log):
        end = segment.archive.last_offset if segment.archive is not None else -1
        if segment.id.label != above.id.label and end >= above.id.base_offset:
            yield segment, above


def _is_exact(path: str) -> bool:
    return not _GLOB_CHARACTERS & set(path) and parse_partition(path) is None


def _times(segment: Segment, manifest: Manifest | None) -> Range:
    """The timestamps of its records in milliseconds; its modification time where they are not known."""
    modified = int(segment.mtime * 1000)
    first, last = (manifest.first_timestamp, manifest.last_timestamp) if manifest else (None, None)
    return modified if first is None else first, modified if last is None else last


def _log_start(data_dir: DataDirs, partition: Partition) -> int:
    """By the broker's checkpoints; 0 where they tell none."""
    found = [read_log_directory(root.fd) for root in data_dir.roots]
    return max((each.log_starts.get(partition, 0) for each in found if each is not None), default=0)
