"""``verify`` with results on the way: each segment when it is done, and at the end the holes between them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from fnmatch import fnmatchcase
from typing import Protocol

from takhin_tiered.concurrency import in_thread
from takhin_tiered.engine.coverage import ArchivedSpans, CoverageReader
from takhin_tiered.engine.scrub import Verdict
from takhin_tiered.segments.names import Partition, SegmentId
from takhin_tiered.segments.results import Hole, VerifiedSegment


class Verify(Protocol):
    """`TieredStorage.verify`."""

    def __call__(self, wanted: Callable[[SegmentId], bool], *, deep: bool) -> AsyncIterator[Verdict]: ...


def matches(path: str, glob: str) -> bool:
    """A glob for whole paths, or for the partition's directory alone."""
    return fnmatchcase(path, glob) or fnmatchcase(SegmentId.parse(path).directory, glob)


async def verify_told(
    coverage: CoverageReader, verify: Verify, glob: str, *, deep: bool
) -> AsyncIterator[VerifiedSegment | Hole]:
    """Each archived segment that matches, then each hole.

    Raises `StoreError` where the store does not answer.
    """
    spans: dict[Partition, ArchivedSpans] = {}
    in_part: set[Partition] = set()

    def wants(identity: SegmentId) -> bool:
        if matches(identity.path, glob):
            return True
        # Only part of this partition is verified: gaps there are no holes.
        in_part.add(identity.place.partition)
        return False

    async for verdict in verify(wants, deep=deep):
        if verdict.manifest is not None:
            spans.setdefault(verdict.id.place.partition, ArchivedSpans()).note(verdict.manifest)
        yield VerifiedSegment(
            segment_path=verdict.id.full_path,
            exact_path=verdict.id.exact_path,
            size_bytes=verdict.size,
            problem=verdict.problem,
            may_lack_files=verdict.may_lack_files,
            skipped=verdict.skipped,
        )
    whole = [each for partition, each in sorted(spans.items()) if partition not in in_part]
    for hole in await in_thread(lambda: [found for each in whole for found in each.holes(coverage)]):
        yield hole
