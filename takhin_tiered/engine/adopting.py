"""Adopt: a segment that another replica archived is not uploaded again, where its log is the local one.

The bytes of the log decide, by their SHA-256. Its indexes are made from it, so those of the other replica do as well. A
transaction index and a producer snapshot hold more than the log: they must say the same, or be missing in the archive,
which then gets them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from takhin_tiered.concurrency import in_thread
from takhin_tiered.disk.access import disk_errors
from takhin_tiered.engine.branching import OtherIncarnation
from takhin_tiered.engine.learning import Learner
from takhin_tiered.errors import ObjectCorrupt, SegmentConflict
from takhin_tiered.formats.transactions import ongoing, parse_aborted, parse_snapshot
from takhin_tiered.segments.manifest import Manifest
from takhin_tiered.segments.names import FileKind
from takhin_tiered.store import ReadableStore
from takhin_tiered.vault.codecs import Codecs
from takhin_tiered.vault.decoding import decoders_of
from takhin_tiered.vault.opened import Content, OpenSegment
from takhin_tiered.vault.owned import OwnedPrefix
from takhin_tiered.vault.proof import MANIFEST_LIMIT, prove_file
from takhin_tiered.vault.writing import Writing

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Adopter:
    """Compares local segments with what other replicas archived."""

    store: ReadableStore
    codecs: Codecs
    learner: Learner

    async def accepted(self, opened: OpenSegment, content: Content, existing: Manifest) -> frozenset[FileKind] | None:
        """Files that may stay as the archive has them, or lacks them; None where the log is not the archived one.

        `SegmentConflict` where the log is the same, and what belongs to it is not.
        """
        log, identity = existing.log, opened.identity
        if (log.plain_size, log.plain_sha256) != (opened.size(FileKind.LOG), content.checksums[FileKind.LOG].sha256):
            return None
        if existing.topic_id != opened.topic_id:
            if existing.topic_id and opened.topic_id:
                return None
            raise _conflict(opened, f"of topic ID {existing.topic_id or 'none'}, not of {opened.topic_id or 'none'}")
        if existing.leader_epochs != content.summary.leader_epochs:
            raise _conflict(opened, "without its leader epochs")
        found = {FileKind.INDEX, FileKind.TIMEINDEX} & existing.files.keys()
        for kind, of in ((FileKind.TXNINDEX, _aborted), (FileKind.SNAPSHOT, _ongoing)):
            archived = existing.files.get(kind)
            if kind not in opened.files or (archived and archived.plain_sha256 == content.checksums[kind].sha256):
                continue
            here = _parsed(of, await self._local(opened, content, kind))
            there = _parsed(of, b"" if archived is None else await self._archived(existing, kind))
            if here is not None and here == there:
                found.add(kind)
            elif archived is not None:
                raise _conflict(opened, f"with another {identity.file(kind)}")
        return frozenset(found)

    async def prove(self, writing: Writing) -> None:
        """Prove what the archive has, and the disk does not: all else is proven where it is written."""
        existing = writing.existing
        for kind, file in existing.files.items() if existing is not None else ():
            if kind not in writing.opened.files:
                await prove_file(self.store, writing.id, file)

    async def _local(self, opened: OpenSegment, content: Content, kind: FileKind) -> bytes:
        if (small := content.small.get(kind)) is not None:
            return small
        file, size = opened.files[kind], opened.size(kind)
        with disk_errors(opened.identity):
            return await in_thread(file.read, 0, size)

    async def _archived(self, manifest: Manifest, kind: FileKind) -> bytes:
        """The plain bytes of one of its smaller files. `ObjectCorrupt`, `NoKey`, `WrongKey`."""
        file = manifest.files[kind]
        data = await self.store.read(file.key, limit=min(file.size + 1, MANIFEST_LIMIT))
        if len(data) != file.size:
            raise ObjectCorrupt(
                f"object {file.key} has not the {file.size} bytes that it should",
                segment=manifest.id.path,
                key=file.key,
            )
        decoder = decoders_of(manifest, self.codecs.keys).get(kind)
        if decoder is None:
            await prove_file(self.store, manifest.id, file)
            return data
        ranges = (decoder.chunks.stored_range(number, file.plain_size) for number in range(len(decoder.chunks)))
        return b"".join(decoder.decode(number, data[begin:end]) for number, (begin, end) in enumerate(ranges))


async def require_replaceable(owned: OwnedPrefix, opened: OpenSegment) -> None:
    """Return if the log that stands under this name may be superseded by another one.

    `OtherIncarnation` where other replicas rely on it: then this replica has a log of its own from here on.
    """
    if await owned.others(opened.identity):
        raise OtherIncarnation("other replicas archived another log under its name", is_other_topic=False)


def _aborted(data: bytes) -> object:
    return parse_aborted(data)


def _ongoing(data: bytes) -> object:
    """Of the producers only these: the others leave the snapshot after a time, on each broker by its own clock."""
    return ongoing(parse_snapshot(data)) if data else {}


def _parsed(of: Callable[[bytes], T], data: bytes) -> T | None:
    """None where it is malformed."""
    try:
        return of(data)
    except ValueError:
        return None


def _conflict(opened: OpenSegment, what: str) -> SegmentConflict:
    identity = opened.identity
    return SegmentConflict(
        f"the log of segment {identity.path} stands in the archive {what}",
        segment=identity.path,
        key=identity.manifest_key,
        hint="It is not adopted, and the local files stay",
    )
