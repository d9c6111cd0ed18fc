"""A log that is made of ranges of archived logs: which bytes of which log, in order. Pure.

Replicas of a partition hold the same batches, and may roll their segments at other offsets. A log whose batches stand
in the archive already, in segments that other replicas archived, is not stored again: its manifest names their bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from takhin_tiered.segments.names import FileKind, SegmentId, parse_object_key

MAX_PARTS = 10_000
_MOST = 2**63 - 1
_SHA256 = re.compile(r"[0-9a-f]{64}(-[1-9][0-9]*)?")


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes ``start`` to ``end`` (exclusive) of the log of another archived segment; plain ones, if it is encoded.

    ``size``, ``sha256`` and ``part_size`` are those of that log's plain bytes, whole: they say which log is meant,
    whatever generation of its segment holds it later. ``key`` is its object's at the time.
    """

    id: SegmentId
    key: str
    size: int
    sha256: str
    part_size: int
    start: int
    end: int

    def __len__(self) -> int:
        return self.end - self.start

    def to_json(self) -> dict[str, Any]:
        return {
            "segment": self.id.path,
            "label": self.id.label,
            "key": self.key,
            "size": self.size,
            "sha256": self.sha256,
            "part_size": self.part_size,
            "start": self.start,
            "end": self.end,
        }


def parse_parts(entry: Mapping[str, Any], size: int) -> tuple[Part, ...]:
    """From a file's entry in a manifest. `ValueError`, `TypeError` or `LookupError` where it makes no sense."""
    described = entry.get("parts")
    if described is None:
        return ()
    if not isinstance(described, list) or not 0 < len(described) <= MAX_PARTS:
        raise ValueError("a log that is made of no parts, or of too many")
    if any(entry.get(name) is not None for name in ("chunks", "plain", "codec", "encryption")):
        raise ValueError("a log that is made of parts has no object to be encoded")
    parts = tuple(map(_part, described))
    if sum(map(len, parts)) != size:
        raise ValueError(f"the parts make no log of {size} bytes")
    return parts


def _part(entry: Mapping[str, Any]) -> Part:
    identity = replace(SegmentId.parse(entry["segment"]), label=str(entry["label"]))
    key, sha256 = str(entry["key"]), str(entry["sha256"])
    # A label that is none, and a key of another segment, both show here.
    if parse_object_key(key) != (identity, FileKind.LOG):
        raise ValueError(f"{key!r} is not the key of the log of {identity.full_path}")
    size, part_size, start, end = (_number(entry[name]) for name in ("size", "part_size", "start", "end"))
    if not start < end <= size:
        raise ValueError(f"bytes {start} to {end} of a log of {size} bytes")
    if not _SHA256.fullmatch(sha256) or ("-" in sha256) != bool(part_size):
        raise ValueError(f"{sha256!r} is not a SHA-256")
    return Part(identity, key, size, sha256, part_size, start, end)


def _number(value: object) -> int:
    if type(value) is not int or not 0 <= value <= _MOST:
        raise ValueError(f"{value!r} is not a number of bytes")
    return value


def slices(parts: Sequence[Part], start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Where bytes ``start`` to ``end`` of the spliced log stand: the number of the part, and the bytes of its log."""
    at = 0
    for number, part in enumerate(parts):
        first, last = max(start, at), min(end, at + len(part))
        if first < last:
            yield number, part.start + first - at, part.start + last - at
        at += len(part)


@dataclass(frozen=True, slots=True)
class Span:
    """The offsets of an archived segment: from its base to its last record."""

    id: SegmentId
    last: int


def covering(spans: Sequence[Span], first: int, last: int) -> list[Span]:
    """Spans of one log, in order, that together reach from ``first`` to ``last``; else as far as there is no hole.

    Offsets that no record has are no hole: only the bytes tell whether a batch is missing. A span ends where it ends,
    and the next one is the first that begins behind that.
    """
    ordered = sorted(spans, key=lambda span: span.id.base_offset)
    below = [span for span in ordered if span.id.base_offset <= first <= span.last]
    if not below:
        return []
    run = [below[-1]]
    for span in ordered:
        if run[-1].last >= last:
            break
        if span.id.base_offset > run[-1].last:
            run.append(span)
    return run


def reaches(run: Sequence[Span], last: int) -> bool:
    return bool(run) and run[-1].last >= last
