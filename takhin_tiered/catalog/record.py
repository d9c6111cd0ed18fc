"""A segment as a row of bytes: what the map holds in memory, and the journal on disk.

A million `Segment` objects would take a gigabyte; as bytes they take a fifth of that, and start-up reads
them without building a single one. Absent parts take no room: a flag says what follows.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from takhin_tiered.segments.model import NO_FILES, Archive, FileStat, LocalFiles, Segment
from takhin_tiered.segments.names import SegmentId

_FLAGS = struct.Struct("<H")
_FILE = struct.Struct("<qqQ")
_ARCHIVE = struct.Struct("<Iqqd")
_TIME = struct.Struct("<d")

_ACTIVE, _SETTLED, _ARCHIVED, _PROVEN_IS_LOCAL, _LEASED, _READ, _PROBLEM = (1 << bit for bit in range(7))
_LOCAL_SHIFT, _PROVEN_SHIFT = 7, 10
_QUARANTINED = 1 << 13


def pack(segment: Segment) -> bytes:
    archive = segment.archive
    proven = archive.proven if archive else NO_FILES
    shared = bool(proven) and proven == segment.local
    flags = (
        (_ACTIVE if segment.active else 0)
        | (_SETTLED if segment.settled else 0)
        | (_ARCHIVED if archive else 0)
        | (_PROVEN_IS_LOCAL if shared else 0)
        | (_LEASED if segment.lease_until else 0)
        | (_READ if segment.last_access else 0)
        | (_PROBLEM if segment.problem else 0)
        | (_QUARANTINED if segment.quarantined else 0)
        | _presence(segment.local) << _LOCAL_SHIFT
        | (0 if shared else _presence(proven) << _PROVEN_SHIFT)
    )
    pieces = [_FLAGS.pack(flags)]
    pieces.append(_pack_files(segment.local))
    if archive:
        pieces.append(_ARCHIVE.pack(archive.generation, archive.size, archive.mtime_ns, archive.archived_at))
    if not shared:
        pieces.append(_pack_files(proven))
    if segment.lease_until:
        pieces.append(_TIME.pack(segment.lease_until))
    if segment.last_access:
        pieces.append(_TIME.pack(segment.last_access))
    if segment.problem:
        pieces.append(segment.problem.encode(errors="surrogatepass"))
    return b"".join(pieces)


def pack_seen(files: LocalFiles, *, active: bool) -> bytes:
    """The row of a segment of which nothing is known but how its files stand, as `pack` would write it."""
    flags = (_ACTIVE if active else 0) | _SETTLED | _presence(files) << _LOCAL_SHIFT
    return _FLAGS.pack(flags) + _pack_files(files)


def stands_so(row: bytes, files: LocalFiles, *, active: bool) -> bool:
    """Whether a row says of a settled segment just this: then a look at the disk changes nothing."""
    flags = row[0] | row[1] << 8
    if flags & (_ACTIVE | _SETTLED) != (_ACTIVE if active else 0) | _SETTLED:
        return False
    if flags >> _LOCAL_SHIFT & 7 != _presence(files) or (files[0] is None and flags & _LEASED):
        return False
    return row.startswith(_pack_files(files), _FLAGS.size)


def unpack(identity: SegmentId, row: bytes) -> Segment:
    flags = _FLAGS.unpack_from(row)[0]
    local, at = _unpack_files(row, _FLAGS.size, flags >> _LOCAL_SHIFT & 7)
    archive = None
    if flags & _ARCHIVED:
        generation, size, mtime_ns, archived_at = _ARCHIVE.unpack_from(row, at)
        proven, at = _unpack_files(row, at + _ARCHIVE.size, flags >> _PROVEN_SHIFT & 7)
        archive = Archive(generation, size, mtime_ns, archived_at, proven=local if flags & _PROVEN_IS_LOCAL else proven)
    lease_until = last_access = 0.0
    if flags & _LEASED:
        lease_until = _TIME.unpack_from(row, at)[0]
        at += _TIME.size
    if flags & _READ:
        last_access = _TIME.unpack_from(row, at)[0]
        at += _TIME.size
    return Segment(
        identity,
        local=local,
        active=bool(flags & _ACTIVE),
        settled=bool(flags & _SETTLED),
        archive=archive,
        lease_until=lease_until,
        last_access=last_access,
        problem=row[at:].decode(errors="surrogatepass") if flags & _PROBLEM else "",
        quarantined=bool(flags & _QUARANTINED),
    )


def _presence(files: LocalFiles) -> int:
    return (files[0] is not None) | (files[1] is not None) << 1 | (files[2] is not None) << 2


def _pack_files(files: LocalFiles) -> bytes:
    return b"".join([_FILE.pack(*stat) for stat in files if stat is not None])


def _unpack_files(row: bytes, at: int, present: int) -> tuple[LocalFiles, int]:
    if not present:
        return NO_FILES, at
    stats: list[FileStat | None] = []
    for bit in range(3):
        if present >> bit & 1:
            stats.append(FileStat(*_FILE.unpack_from(row, at)))
            at += _FILE.size
        else:
            stats.append(None)
    return LocalFiles(*stats), at


@dataclass(frozen=True, slots=True)
class Form:
    """Where a row of certain flags has what: numbers of fields in ``layout``, 0 for one that is not there."""

    layout: str
    local_sizes: tuple[int, ...]
    archive_size: int
    mtime: int
    archived_only: bool
    quarantined: bool


def flags_of(row: bytes) -> int:
    return row[0] | row[1] << 8


def is_special(row: bytes) -> bool:
    """Of a segment that is active, or restored and still on disk."""
    flags = flags_of(row)
    return bool(flags & _ACTIVE or (flags & _LEASED and flags >> _LOCAL_SHIFT & 1))


def form_of(flags: int) -> Form:
    present = flags >> _LOCAL_SHIFT & 7
    files = present.bit_count()
    has_log, is_archived = bool(present & 1), bool(flags & _ARCHIVED)
    after = 1 + 3 * files
    return Form(
        layout="<H" + "qqQ" * files + ("Iqqd" if is_archived else ""),
        local_sizes=tuple(range(1, after, 3)),
        archive_size=after + 1 if is_archived else 0,
        mtime=2 if has_log else after + 2 if is_archived else 0,
        archived_only=is_archived and not has_log,
        quarantined=bool(flags & _QUARANTINED),
    )
