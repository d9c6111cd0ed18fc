"""Kafka's small text files: properties, the identity of a partition, leader epochs, offset checkpoints.

Sources: ``java.util.Properties`` for ``meta.properties``; Apache Kafka's ``PartitionMetadataFile``,
``LeaderEpochCheckpointFile``, ``LeaderEpochFileCache``, ``OffsetCheckpointFile`` and ``CheckpointFile``. A checkpoint
is ``0``, the number of its entries, and one entry per line; or an empty file, as a broker creates it at first.
Malformed text raises `ValueError`: a truncated checkpoint is not used.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import pairwise

LeaderEpochs = tuple[tuple[int, int], ...]
"""Leader epochs of a log, each with the offset at which it starts; both grow strictly."""

_VERSION = 0
_NO_TOPIC_ID = "A" * 22
_TOPIC_ID = re.compile(r"[A-Za-z0-9_-]{22}")
_NUMBER = re.compile(r"[0-9]{1,19}")
_MAX_INT, _MAX_LONG = 2**31 - 1, 2**63 - 1
_BLANK = " \t\f"
_UNESCAPED = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}
_HEX = re.compile(r"[0-9a-fA-F]{4}")
_SURROGATES = re.compile("[\ud800-\udbff][\udc00-\udfff]")


def parse_properties(text: str) -> dict[str, str]:
    """The entries of Java properties, such as ``meta.properties``; the last value of a key wins.

    `ValueError` for a malformed escape.
    """
    return dict(_entry(line) for line in _logical_lines(text))


def parse_topic_id(text: str) -> str:
    """The topic ID in ``partition.metadata``, 22 characters; "" if it has none, or all zeros.

    `ValueError` for an unknown version, a malformed line, or a malformed ID.
    """
    values: dict[str, str] = {}
    for line in filter(str.strip, _lines(text)):
        key, colon, value = line.partition(":")
        if not colon or (key := key.strip()) in values:
            raise ValueError(f"{_shown(line)} is not a line of partition.metadata")
        values[key] = value.strip()
    if values.get("version", str(_VERSION)) != str(_VERSION):
        raise ValueError(f"version {_shown(values['version'])} of partition.metadata is unknown")
    topic_id = values.get("topic_id", _NO_TOPIC_ID)
    if not _TOPIC_ID.fullmatch(topic_id):
        raise ValueError(f"{_shown(topic_id)} is not a topic ID of 22 characters")
    return "" if topic_id == _NO_TOPIC_ID else topic_id


def render_partition_metadata(topic_id: str) -> bytes:
    """``partition.metadata`` as Kafka writes it, without a newline at the end.

    `ValueError` for an invalid topic ID, all zeros included: Kafka does not start with such a file.
    """
    if topic_id == _NO_TOPIC_ID or not _TOPIC_ID.fullmatch(topic_id):
        raise ValueError(f"{_shown(topic_id)} is not a topic ID of 22 characters")
    return f"version: {_VERSION}\ntopic_id: {topic_id}".encode()


def parse_offset_checkpoint(text: str) -> dict[tuple[str, int], int]:
    """The offset of each partition, by topic and number.

    For ``replication-offset-checkpoint``, ``recovery-point-offset-checkpoint``, ``log-start-offset-checkpoint`` and
    ``cleaner-offset-checkpoint``. `ValueError` if it is malformed, or names a partition twice.
    """
    offsets: dict[tuple[str, int], int] = {}
    for topic, partition, offset in _entries(text, 3):
        key = topic, _number(partition, _MAX_INT)
        if key in offsets:
            raise ValueError(f"the checkpoint names partition {topic}-{partition} twice")
        offsets[key] = _number(offset, _MAX_LONG)
    return offsets


def parse_leader_epochs(text: str) -> LeaderEpochs:
    """The entries of ``leader-epoch-checkpoint``. `ValueError` if malformed, or epochs or starts do not grow."""
    epochs = tuple((_number(epoch, _MAX_INT), _number(start, _MAX_LONG)) for epoch, start in _entries(text, 2))
    if not all(_grows(one, other) for one, other in pairwise(epochs)):
        raise ValueError("the epochs of the checkpoint, or their start offsets, do not increase from line to line")
    return epochs


def render_leader_epochs(epochs: LeaderEpochs) -> bytes:
    """``leader-epoch-checkpoint`` as Kafka writes it."""
    lines = [str(_VERSION), str(len(epochs)), *(f"{epoch} {start}" for epoch, start in epochs)]
    return "".join(f"{line}\n" for line in lines).encode()


def merge_leader_epochs(present: LeaderEpochs, archived: Iterable[LeaderEpochs]) -> LeaderEpochs:
    """``present``, with the archived entries that are consistent with it; for the same epoch the smaller start.

    Kafka raises the start of the oldest epoch when the log start advances, so the archive may know an earlier one. An
    archived entry that would break the order of epochs and starts is omitted: the present log is authoritative. Of two
    contradicting archived entries the higher epoch stays, as in ``LeaderEpochFileCache``.
    """
    earliest: dict[int, int] = {}
    for epoch, start in (entry for epochs in archived for entry in epochs):
        earliest[epoch] = min(start, earliest.get(epoch, start))
    merged = dict(present)
    # First the starts of the log's own epochs: which other entries fit depends on them.
    own = [(epoch, earliest[epoch]) for epoch, _ in present if epoch in earliest]
    for epoch, start in [*own, *sorted(earliest.items(), reverse=True)]:
        below = max((entry for entry in merged.items() if entry[0] < epoch), default=(-1, -1))
        above = min((entry for entry in merged.items() if entry[0] > epoch), default=(epoch + 1, _MAX_LONG + 1))
        if below[1] < start < min(above[1], merged.get(epoch, above[1])):
            merged[epoch] = start
    return tuple(sorted(merged.items()))


def epochs_within(epochs: LeaderEpochs, first: int, last: int) -> LeaderEpochs:
    """The entries that cover any of the offsets ``first`` to ``last``, both included, with their own starts."""
    ends = [start for _, start in epochs[1:]] + [_MAX_LONG + 1]
    return tuple(entry for entry, end in zip(epochs, ends, strict=False) if entry[1] <= last and end > first)


def contradict(epochs: LeaderEpochs, batches: LeaderEpochs, last: int) -> bool:
    """Whether these records belong to another branch than the log with the checkpoint ``epochs``.

    ``batches`` are the epochs in the batch headers, each with the first offset of its run; the last run ends at
    ``last``. Offsets before the checkpoint's first entry contradict nothing: Kafka drops old entries when the log start
    advances. A batch without an epoch (-1) contradicts nothing either.

    Read the checkpoint after the batches: an epoch is in the checkpoint before its first batch is in the log.
    """
    # Compare only known record offsets: a compacted log has gaps, and no batch shows where in a gap an epoch ended.
    # That is enough: two logs that agree on epoch and offset of one record agree on all records before it.
    return any(_epoch_at(epochs, offset) not in {None, epoch} for offset, epoch in _known(batches, last))


def cannot_join(epochs: LeaderEpochs, batches: LeaderEpochs, last: int) -> bool:
    """Whether these records cannot belong to the log with the checkpoint ``epochs``, if segments may be missing.

    They cannot if a later epoch begins at or before one of them, or an earlier one after it. If only their own epoch
    begins after them, it may have begun in a missing segment. Arguments as in `contradict`.
    """
    known = _known(batches, last)
    return any(epoch > own if start <= offset else epoch < own for epoch, start in epochs for offset, own in known)


def _known(batches: LeaderEpochs, last: int) -> list[tuple[int, int]]:
    """Offsets of known records, each with its epoch."""
    points = [*((start, epoch) for epoch, start in batches), *((last, epoch) for epoch, _ in batches[-1:])]
    return [(offset, epoch) for offset, epoch in points if epoch >= 0]


def _epoch_at(epochs: LeaderEpochs, offset: int) -> int | None:
    at = bisect_right(epochs, offset, key=lambda entry: entry[1])
    return epochs[at - 1][0] if at else None


def _grows(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return one[0] < other[0] and one[1] < other[1]


def _entries(text: str, width: int) -> Iterator[list[str]]:
    """The entries of a checkpoint, ``width`` fields each, after checking that it is complete."""
    if not text:
        return
    lines = _lines(text)
    if len(lines) < 2:
        raise ValueError("the checkpoint is cut off before its first entry")
    if lines[0].strip() != str(_VERSION):
        raise ValueError(f"version {_shown(lines[0])} of the checkpoint is unknown")
    count, entries = _number(lines[1].strip(), _MAX_LONG), lines[2:]
    if len(entries) != count:
        raise ValueError(f"the checkpoint has {len(entries)} entries, but its header says {count}")
    for line in entries:
        fields = line.split()
        if len(fields) != width:
            raise ValueError(f"{_shown(line)} is not an entry of a checkpoint: {width} fields are expected")
        yield fields


def _number(digits: str, largest: int) -> int:
    if not _NUMBER.fullmatch(digits) or (number := int(digits)) > largest:
        raise ValueError(f"{_shown(digits)} is not a number from 0 to {largest}")
    return number


def _lines(text: str) -> list[str]:
    """Lines as Java splits them: only these three endings, and no empty line at the end."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return lines if lines[-1] else lines[:-1]


def _logical_lines(text: str) -> Iterator[str]:
    """Lines with an entry, joined with their continuation lines."""
    held = ""
    for line in _lines(text):
        line = line.lstrip(_BLANK)  # noqa: PLW2901
        if not held and (not line or line[0] in "#!"):
            continue
        held += line
        if (len(held) - len(held.rstrip("\\"))) % 2:
            held = held[:-1]
            continue
        if held:
            yield held
        held = ""
    if held:
        yield held


def _entry(line: str) -> tuple[str, str]:
    end = 0
    while end < len(line) and line[end] not in "=:" + _BLANK:
        end += 2 if line[end] == "\\" else 1
    rest = line[end:].lstrip(_BLANK)
    if rest[:1] in {"=", ":"}:
        rest = rest[1:].lstrip(_BLANK)
    return _unescape(line[:end]), _unescape(rest)


def _unescape(text: str) -> str:
    if "\\" not in text:
        return text
    found, at = [], 0
    while at < len(text):
        one, at = text[at], at + 1
        if one == "\\":
            one, at = text[at : at + 1], at + 1
            if one == "u":
                if not _HEX.fullmatch(text[at : at + 4]):
                    raise ValueError(f"{_shown(text)} has a \\u without four hexadecimal digits")
                one, at = chr(int(text[at : at + 4], 16)), at + 4
            else:
                one = _UNESCAPED.get(one, one)
        found.append(one)
    return _SURROGATES.sub(lambda pair: pair[0].encode("utf-16", "surrogatepass").decode("utf-16"), "".join(found))


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
