"""Scan: which segments are in the data directories. Blocking, so called in a thread.

Only ``<topic>-<partition>/<20 digits>.{log,index,timeindex,txnindex,snapshot}`` that are regular files in a real
directory count. Checkpoints, ``.deleted``, ``.cleaned``, ``.swap``,
the directories that a broker is deleting or moving (``…-delete``, ``…-stray``, ``…-future``) and
every symlink are ignored. A file that vanishes during the scan counts as absent.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable

from takhin_tiered.disk.files import DataDir, DataDirs
from takhin_tiered.disk.helper import Helper, HelperFailed
from takhin_tiered.disk.locate import names_in, scan_located
from takhin_tiered.disk.partition_scan import PartitionScan, failed_scan
from takhin_tiered.segments.listing import PartitionListing, pack_seen
from takhin_tiered.segments.model import LocalFiles
from takhin_tiered.segments.names import FileKind, parse_partition


class ScanMemory:
    """What the previous scan saw, so that the next one reads only directories that changed.

    A directory's modification time changes with every name in it. It counts only if it was well in the past when it
    was read: a coarse clock gives two changes the same time. Files that change in place are read by name, and every
    `FULL_EVERY` seconds everything is read again. With fewer than ``full_below`` known segments every scan is a full
    one: that is fast enough, and misses nothing.
    """

    def __init__(self, full_below: int = 5000) -> None:
        self._full_below = full_below
        self._stamps: dict[str, tuple[int, int, int]] = {}
        self._read_all_at = -FULL_EVERY

    def begin(self, known: int) -> None:
        """Start a scan; forget everything if a full scan is due. ``known`` is the number of known segments."""
        if known < self._full_below or time.monotonic() - self._read_all_at >= FULL_EVERY:
            self._read_all_at = time.monotonic()
            self._stamps.clear()

    def knows(self, name: str) -> bool:
        return name in self._stamps

    def is_unchanged(self, name: str, status: os.stat_result) -> bool:
        return self._stamps.get(name) == _stamp_of(status)

    def note(self, name: str, status: os.stat_result) -> None:
        """Remember the directory's status, taken before it was read."""
        if time.time() - status.st_mtime > COARSEST_CLOCK:
            self._stamps[name] = _stamp_of(status)
        else:
            self._stamps.pop(name, None)


FULL_EVERY = 6 * 3600.0
COARSEST_CLOCK = 3.0
HELPER_THRESHOLD = 50_000
UnsettledOffsets = Callable[[str, int], Iterable[int]]
"""The base offsets of a topic's partition whose files are read even if its directory is unchanged."""


def scan(
    data_dir: DataDir | DataDirs,
    memory: ScanMemory,
    unsettled_offsets: UnsettledOffsets = lambda *_: (),
    *,
    known: int = 0,
    helper_threshold: int = HELPER_THRESHOLD,
) -> Generator[PartitionListing, None, None]:
    """List one partition after the other. `OSError`, which names the directory, if a data directory cannot be read.

    A partition that cannot be read is listed with its ``problem``. One whose directory is unchanged is listed as
    ``partial``, with its unsettled segments only. After ``helper_threshold`` segments a second process reads the
    unknown partitions, starting from the last one.
    """
    memory.begin(known)
    names = deque(names_in(data_dir))
    read = 0
    with Helper(data_dir) as helper:
        while names or helper.asked:
            try:
                if read > helper_threshold and names and helper.is_free and not memory.knows(names[-1]):
                    helper.ask(names.pop())
                    continue
                answered = bool(helper.asked) and helper.has_answer(wait=not names)
                look = helper.answer() if answered else _look(data_dir, names.popleft(), memory, unsettled_offsets)
            except HelperFailed:
                names += helper.give_up()
                continue
            if look is None:
                continue
            listing = look.listing
            if look.directory is not None:
                memory.note(listing.directory, look.directory)
                read += len(listing.rows)
            yield listing


def _look(
    data_dir: DataDir | DataDirs, name: str, memory: ScanMemory, unsettled_offsets: UnsettledOffsets
) -> PartitionScan | None:
    parsed = parse_partition(name)
    if parsed is None or not memory.knows(name):
        return scan_located(data_dir, name)
    try:
        rows: dict[int, bytes] = {}
        with data_dir.partition(name) as partition:
            if not memory.is_unchanged(name, os.fstat(partition.fd)):
                return scan_located(data_dir, name)
            for offset in unsettled_offsets(*parsed):
                rows[offset] = pack_seen(LocalFiles(*(partition.stat(f"{offset:020d}.{kind}") for kind in FileKind)))
        return PartitionScan(PartitionListing(*parsed, rows, None, partial=True), None)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return failed_scan(name, error)


def _stamp_of(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_mtime_ns, status.st_ino, status.st_dev
