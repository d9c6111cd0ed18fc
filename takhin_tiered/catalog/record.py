"""A segment as a packed row, in memory and in the journal.

A million `Segment` objects would take a gigabyte. Packed, they take a fifth of that, and start-up reads
them without creating a single object. Absent parts take no room: flags say what follows.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from operator import itemgetter

from takhin_tiered.segments.listing import (
    ACTIVE,
    ALL_KINDS,
    FLAGS,
    KINDS,
    LOCAL_SHIFT,
    SETTLED,
    flags_of,
    has_log,
    pack_files,
    presence,
    unpack_files,
)
from takhin_tiered.segments.model import NO_FILES, Archive, Segment
from takhin_tiered.segments.names import SegmentId

_ARCHIVE = struct.Struct("<Iqqdq")
_NUMBER = struct.Struct("<q")
_TIME = struct.Struct("<d")
_LENGTH = struct.Struct("<I")

# A listing's rows use the bits below these, and the bits of the local files after them.
_ARCHIVED, _PROVEN_IS_LOCAL, _LEASED, _READ, _FAILED = (1 << bit for bit in range(2, 7))
_PROVEN_SHIFT = LOCAL_SHIFT + KINDS
_QUARANTINED, _DAMAGED, _ENCODED, _TIMED, _REQUESTED, _NOT_HELD = (
    1 << (_PROVEN_SHIFT + KINDS + place) for place in range(6)
)
# The numbers behind an archive's fields, in this order.
_NUMBERS = _ENCODED | _TIMED
# The texts are at the end, in this order, each after its length.
_TEXTS = (_DAMAGED, _FAILED, _QUARANTINED, _REQUESTED)
_LOCAL_BITS = ALL_KINDS << LOCAL_SHIFT
_SEEN_BITS = ACTIVE | SETTLED | _LOCAL_BITS
# After the flags come the log's size and its modification time.
_LOG_TIME = struct.Struct("<q")
_LOG_TIME_AT = FLAGS.size + 8


def pack(segment: Segment) -> bytes:
    archive, lease_by = segment.archive, segment.lease_by if segment.lease_until else ""
    proven = archive.proven if archive else NO_FILES
    shared = bool(proven) and proven == segment.local
    flags = (
        (ACTIVE if segment.active else 0)
        | (SETTLED if segment.settled else 0)
        | (_ARCHIVED if archive else 0)
        | (_ENCODED if archive and archive.encoded_size is not None else 0)
        | (_TIMED if archive and archive.last_timestamp >= 0 else 0)
        | (_NOT_HELD if archive and not archive.held else 0)
        | (_PROVEN_IS_LOCAL if shared else 0)
        | (_LEASED if segment.lease_until else 0)
        | (_READ if segment.last_access else 0)
        | (_DAMAGED if segment.damage else 0)
        | (_FAILED if segment.last_failure else 0)
        | (_QUARANTINED if segment.quarantine else 0)
        | (_REQUESTED if lease_by else 0)
        | presence(segment.local) << LOCAL_SHIFT
        | (0 if shared else presence(proven) << _PROVEN_SHIFT)
    )
    pieces = [FLAGS.pack(flags)]
    pieces.append(pack_files(segment.local))
    if archive:
        fields = (archive.generation, archive.size, archive.mtime_ns, archive.archived_at, archive.last_offset)
        pieces.append(_ARCHIVE.pack(*fields))
        if archive.encoded_size is not None:
            pieces.append(_NUMBER.pack(archive.encoded_size))
        if archive.last_timestamp >= 0:
            pieces.append(_NUMBER.pack(archive.last_timestamp))
    if not shared:
        pieces.append(pack_files(proven))
    if segment.lease_until:
        pieces.append(_TIME.pack(segment.lease_until))
    if segment.last_access:
        pieces.append(_TIME.pack(segment.last_access))
    pieces += map(_pack_text, filter(None, (segment.damage, segment.last_failure, segment.quarantine, lease_by)))
    return b"".join(pieces)


def _pack_text(text: str) -> bytes:
    data = text.encode(errors="surrogatepass")
    return _LENGTH.pack(len(data)) + data


def _texts(row: bytes, at: int, flags: int) -> Iterator[str]:
    """The texts of `_TEXTS`, which start at ``at``; empty for an absent one."""
    for flag in _TEXTS:
        if not flags & flag:
            yield ""
            continue
        begin = at + _LENGTH.size
        at = begin + _LENGTH.unpack_from(row, at)[0]
        if at > len(row):
            raise struct.error("a text of a row is longer than the row")
        yield row[begin:at].decode(errors="surrogatepass")


def is_unchanged(row: bytes, seen: bytes, *, active: bool) -> bool:
    """Whether a row of a settled segment equals what the scan saw, so that nothing has to be updated."""
    flags = flags_of(row)
    if flags & _SEEN_BITS != flags_of(seen) | active or (flags & _LEASED and not has_log(seen)):
        return False
    return row.startswith(seen[FLAGS.size :], FLAGS.size)


def has_archive(row: bytes) -> bool:
    """Whether the segment has an archived copy, sound or not, local files or not."""
    return bool(flags_of(row) & _ARCHIVED)


def archived_end(row: bytes) -> int:
    """The last offset of the archived segment; -1 if unknown."""
    flags = flags_of(row)
    if not flags & _ARCHIVED:
        return -1
    at = FLAGS.size + 24 * (flags >> LOCAL_SHIFT & ALL_KINDS).bit_count()
    last: int = _ARCHIVE.unpack_from(row, at)[4]
    return last


def is_older(row: bytes, timestamp: int) -> bool:
    """Whether all records of an archived segment are known to be older than a timestamp.

    Not of one whose local files are not verified to equal the archived ones.
    """
    flags = flags_of(row)
    present = flags & _LOCAL_BITS
    if not flags & _TIMED or (present and not flags & _PROVEN_IS_LOCAL):
        return False
    at = FLAGS.size + 24 * present.bit_count() + _ARCHIVE.size + _NUMBER.size * bool(flags & _ENCODED)
    last: int = _NUMBER.unpack_from(row, at)[0]
    return last < timestamp


def may_be_unproven(head: bytes) -> bool:
    """By a row's flags alone, whether `is_unproven` may be true."""
    flags = flags_of(head)
    return bool(flags & _ARCHIVED) and not flags & _PROVEN_IS_LOCAL and bool(flags >> LOCAL_SHIFT & 1)


def is_unproven(row: bytes) -> bool:
    """Whether a segment is archived, and its local log is not verified to equal the archived one."""
    flags = flags_of(row)
    if not may_be_unproven(row):
        return False
    present, proven = flags >> LOCAL_SHIFT & ALL_KINDS, flags >> _PROVEN_SHIFT & ALL_KINDS
    local = unpack_files(row, FLAGS.size, present)[0]
    at = FLAGS.size + 24 * present.bit_count() + _ARCHIVE.size + _NUMBER.size * (flags & _NUMBERS).bit_count()
    return unpack_files(row, at, proven)[0].log != local.log


def is_restored(row: bytes) -> bool:
    """Whether the segment was restored and its log is still on disk; False for an empty row."""
    return bool(row) and bool(flags_of(row) & _LEASED) and has_log(row)


def may_have_work(
    row: bytes, *, cold_since_ns: int, upload_since_ns: int, keeps_copies: bool, may_expire: bool
) -> bool:
    """Whether a cycle might have work for a segment, by a few bytes of its row; False only if it is certain.

    What is not modified after ``upload_since_ns`` is uploaded, and what is not after ``cold_since_ns`` leaves the disk.
    Not for segments with a retention by size.
    """
    flags = flags_of(row)
    if not flags & _LOCAL_BITS:
        return may_expire
    if not has_log(row) or flags & _LEASED:
        return True
    if flags & ACTIVE or (keeps_copies and flags & _PROVEN_IS_LOCAL):
        return False
    modified_ns: int = _LOG_TIME.unpack_from(row, _LOG_TIME_AT)[0]
    return modified_ns <= (cold_since_ns if flags & _PROVEN_IS_LOCAL else upload_since_ns)


def unpack(identity: SegmentId, row: bytes) -> Segment:
    flags = flags_of(row)
    local, at = unpack_files(row, FLAGS.size, flags >> LOCAL_SHIFT & ALL_KINDS)
    archive = None
    if flags & _ARCHIVED:
        generation, size, mtime_ns, archived_at, last_offset = _ARCHIVE.unpack_from(row, at)
        at += _ARCHIVE.size
        encoded_size, last_timestamp = None, -1
        if flags & _ENCODED:
            encoded_size = _NUMBER.unpack_from(row, at)[0]
            at += _NUMBER.size
        if flags & _TIMED:
            last_timestamp = _NUMBER.unpack_from(row, at)[0]
            at += _NUMBER.size
        proven, at = unpack_files(row, at, flags >> _PROVEN_SHIFT & ALL_KINDS)
        proven = local if flags & _PROVEN_IS_LOCAL else proven
        numbers = (last_offset, encoded_size, last_timestamp)
        archive = Archive(generation, size, mtime_ns, archived_at, proven, *numbers, held=not flags & _NOT_HELD)
    lease_until = last_access = 0.0
    if flags & _LEASED:
        lease_until = _TIME.unpack_from(row, at)[0]
        at += _TIME.size
    if flags & _READ:
        last_access = _TIME.unpack_from(row, at)[0]
        at += _TIME.size
    damage, last_failure, quarantine, lease_by = _texts(row, at, flags)
    return Segment(
        identity,
        local=local,
        active=bool(flags & ACTIVE),
        settled=bool(flags & SETTLED),
        archive=archive,
        lease_until=lease_until,
        last_access=last_access,
        damage=damage,
        last_failure=last_failure,
        quarantine=quarantine,
        lease_by=lease_by,
    )


head_of: Callable[[bytes], bytes] = itemgetter(slice(FLAGS.size))
"""A row's flags: rows with the same flags have the same layout."""


def is_special(head: bytes) -> bool:
    """Whether the segment is active, or restored and still on disk."""
    flags = flags_of(head)
    return bool(flags & ACTIVE or (flags & _LEASED and flags >> LOCAL_SHIFT & 1))


@dataclass(frozen=True, slots=True)
class Form:
    """The layout of rows with certain flags, up to their texts: indexes into the fields that ``reader`` unpacks.

    ``archive_size``, ``stored_size``, ``archived_at`` and ``mtime`` are -1 if absent.
    """

    reader: struct.Struct
    fields: int
    local_sizes: tuple[int, ...]
    archive_size: int
    stored_size: int
    mtime: int
    archived_at: int
    archived_only: bool
    quarantined: bool
    damaged: bool


@cache
def form_of(head: bytes) -> Form:
    flags = flags_of(head)
    present, proven = flags >> LOCAL_SHIFT & ALL_KINDS, flags >> _PROVEN_SHIFT & ALL_KINDS
    has_log, has_archive, is_encoded = bool(present & 1), bool(flags & _ARCHIVED), bool(flags & _ENCODED)
    sizes = present.bit_count()
    # Read the size of each file and of the archive, and the times of the log and of the archive; skip the rest.
    local = "qq8x" + "q16x" * (sizes - 1) if has_log else "q16x" * sizes
    if has_archive:
        local += "4xqqd8x" + "q" * is_encoded + "8x" * bool(flags & _TIMED)
    rest = f"{24 * proven.bit_count() + 8 * bool(flags & _LEASED) + 8 * bool(flags & _READ)}x"
    first_archived = sizes + has_log
    return Form(
        reader=struct.Struct(f"<{FLAGS.size}x{local}{rest}"),
        fields=sizes + has_log + (3 + is_encoded) * has_archive,
        local_sizes=(0, *range(2, sizes + 1)) if has_log else tuple(range(sizes)),
        archive_size=first_archived if has_archive else -1,
        stored_size=-1 if not has_archive else first_archived + 3 * is_encoded,
        mtime=1 if has_log else first_archived + 1 if has_archive else -1,
        archived_at=first_archived + 2 if has_archive else -1,
        archived_only=has_archive and not has_log,
        quarantined=bool(flags & _QUARANTINED),
        damaged=bool(flags & _DAMAGED),
    )


_OLD_FLAGS = struct.Struct("<H")
_OLD_ARCHIVE_SIZE = struct.calcsize("<Iqqd")
_OLD_KINDS = 7
_UNKNOWN_LAST_OFFSET = struct.pack("<q", -1)


def from_schema_2(row: bytes) -> bytes:
    """A row as releases before 0.2 wrote it, in the form of `from_schema_4`.

    It has three kinds of file, flags of two bytes, and no last offset.
    """
    if not row:
        return row
    (flags,) = _OLD_FLAGS.unpack_from(row)
    local, proven = flags >> 7 & _OLD_KINDS, flags >> 10 & _OLD_KINDS
    new = flags & 0x7F | local << LOCAL_SHIFT | proven << _PROVEN_SHIFT | (_QUARANTINED if flags & 1 << 13 else 0)
    head, rest = FLAGS.pack(new), row[_OLD_FLAGS.size :]
    if not flags & _ARCHIVED:
        return head + rest
    at = 24 * local.bit_count() + _OLD_ARCHIVE_SIZE
    return head + rest[:at] + _UNKNOWN_LAST_OFFSET + rest[at:]


# The damage texts of `takhin_tiered.formats.kafka`.
_DAMAGE = re.compile(
    r"the batch at byte \d+ of the log fails its CRC|no whole batch stands at byte \d+ of \d+ of the log"
)


def from_schema_4(row: bytes) -> bytes:
    """A row with one text at its end, for damage, a failure or the cause of a quarantine."""
    if not row:
        return row
    flags = flags_of(row)
    if not flags & (_FAILED | _QUARANTINED):
        return row
    at = form_of(row[: FLAGS.size]).reader.size
    data = row[at:] if flags & _FAILED else b""
    if flags & _QUARANTINED:
        kind, data = _QUARANTINED, data or b"the archived copy is missing or damaged"
    else:
        kind = _DAMAGED if _DAMAGE.fullmatch(data.decode(errors="surrogatepass")) else _FAILED
    head = FLAGS.pack(flags & ~(_FAILED | _QUARANTINED) | kind)
    return head + row[FLAGS.size : at] + _LENGTH.pack(len(data)) + data
