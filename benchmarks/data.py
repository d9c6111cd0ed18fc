"""What the benchmarks work on: made-up segments in Kafka's format, and large numbers of empty-handed ones."""

from __future__ import annotations

import filecmp
import os
import struct
import time
from pathlib import Path

from benchmarks.measure import Failed, require
from takhin_tiered.formats.kafka import HEADER_SIZE, Batch, index_entry, parse_batch, timeindex_entry
from takhin_tiered.formats.sample import make_segment

COLD_SECONDS = 400 * 3600.0
KINDS = ("log", "index", "timeindex")
_TEMPLATE = 16 << 20
_PER_PARTITION = 1000


class SegmentMaker:
    """Segments of about one size: real batches with a right CRC, repeated under new base offsets."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._template = make_segment(0, min(size, _TEMPLATE)).log
        template = self._template
        self._batches: list[Batch] = []
        position = 0
        while (batch := parse_batch(template[position : position + HEADER_SIZE], position)) is not None:
            self._batches.append(batch)
            position += batch.size
        self._step = self._batches[-1].last_offset + 1

    def write(self, directory: Path, base: int, modified: float) -> int:
        """Write one triple; returns the offset at which the next segment begins."""
        index, timeindex, offset, position = bytearray(), bytearray(), base, 0
        stem = f"{base:020d}"
        with (directory / f"{stem}.log").open("wb") as log:
            while position < self._size:
                tile = bytearray(self._template)
                for batch in self._batches:
                    # The base offset stands before what the CRC covers.
                    struct.pack_into(">q", tile, batch.position, offset + batch.base_offset)
                    last = offset + batch.last_offset - base
                    index += index_entry(last, position + batch.position)
                    timeindex += timeindex_entry(batch.max_timestamp, last)
                log.write(tile)
                position += len(tile)
                offset += self._step
        (directory / f"{stem}.index").write_bytes(index)
        (directory / f"{stem}.timeindex").write_bytes(timeindex)
        for kind in KINDS:
            os.utime(directory / f"{stem}.{kind}", (modified, modified))
        return offset


def make_segments(
    root: Path, count: int, size: int, *, partitions: int, topic: str = "orders", cold: float = 1.0
) -> None:
    """So many closed triples, the first share of each partition ``cold``, and one active triple behind them."""
    now = time.time()
    closed, active = SegmentMaker(size), SegmentMaker(1)
    for number in range(partitions):
        directory = root / f"{topic}-{number}"
        directory.mkdir(parents=True)
        here = count // partitions + (number < count % partitions)
        offset = 0
        for position in range(here):
            is_cold = position < round(here * cold)
            offset = closed.write(directory, offset, now - COLD_SECONDS if is_cold else now - 60)
        active.write(directory, offset, now - 60)


def active_files(root: Path) -> set[str]:
    """The files of the active segments, which nobody may move."""
    found = set()
    for directory in root.iterdir():
        last = max(path.stem for path in directory.glob("*.log"))
        found |= {f"{directory.name}/{last}.{kind}" for kind in KINDS}
    return found


def files_below(root: Path) -> dict[str, int]:
    """Sizes by relative path."""
    return {
        f"{directory.name}/{entry.name}": entry.stat().st_size
        for directory in os.scandir(root)
        if directory.is_dir() and not directory.name.startswith(".")
        for entry in os.scandir(directory)
        if entry.is_file()
    }


def link_tree(source: Path, target: Path, *, without: set[str] | frozenset[str] = frozenset()) -> None:
    """The same files under other names, as hard links: taking them away there leaves them here."""
    for name in files_below(source):
        if name not in without:
            link = target / name
            link.parent.mkdir(parents=True, exist_ok=True)
            os.link(source / name, link)


def require_same_files(source: Path, copy: Path, names: set[str]) -> None:
    """`Failed` unless these files, and only these, stand in both, byte for byte."""
    found = set(files_below(copy))
    require(found == names, f"{copy}: {len(found - names)} files too many, {len(names - found)} missing")
    for name in sorted(names):
        require(filecmp.cmp(source / name, copy / name, shallow=False), f"{copy / name} has other bytes")


def make_crowd(root: Path, count: int) -> None:
    """So many triples of sparse and empty files, 1,000 to a partition: for walking, not for reading."""
    free = os.statvfs(root.parent).f_favail
    needed = 3 * count + count // _PER_PARTITION + 1000
    if free < needed:
        raise Failed(f"{root.parent} has room for {free} files, and {needed} are needed: use --limit or --work")
    for at in range(0, count, _PER_PARTITION):
        directory = root / f"crowd-{at // _PER_PARTITION}"
        directory.mkdir(parents=True)
        fd = os.open(directory, os.O_RDONLY)
        try:
            for base in range(min(_PER_PARTITION, count - at)):
                for kind in KINDS:
                    file = os.open(f"{base * 1000:020d}.{kind}", os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=fd)
                    if kind == "log":
                        os.ftruncate(file, 1 << 20)
                    os.close(file)
        finally:
            os.close(fd)
