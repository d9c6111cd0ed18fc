"""Scan: which segments stand in the data directories. Blocking, so called in a thread.

Only ``<topic>-<partition>/<20 digits>.{log,index,timeindex}`` that are regular files in a real
directory count. Snapshots, transaction indexes, checkpoints, ``.deleted``, ``.cleaned``, ``.swap``,
the directories that a broker is deleting or moving (``…-delete``, ``…-stray``, ``…-future``) and
every symlink are left alone. What vanishes in the middle of a scan was never there.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable

from takhin_tiered.disk.files import DataDir, DataDirs
from takhin_tiered.disk.helper import Helper, HelperFailed
from takhin_tiered.disk.look import Look, unreadable
from takhin_tiered.disk.where import look_anywhere, names_in
from takhin_tiered.segments.listing import PartitionListing, pack_seen
from takhin_tiered.segments.model import LocalFiles
from takhin_tiered.segments.names import FileKind, parse_partition


class ScanMemory:
    """What the scan before saw, so that the next one reads only directories that changed.

    A directory's modification time changes with every name in it. It is believed only if it was well in
    the past when it was read, as coarse clocks give two changes one time; files that change in place are
    asked for by name, and every `FULL_EVERY` seconds everything is read again. So are fewer than ``few``
    known segments each time, which takes an instant, and misses nothing.
    """

    def __init__(self, few: int = 5000) -> None:
        self._few = few
        self._stamps: dict[str, tuple[int, int, int]] = {}
        self._read_all_at = -FULL_EVERY

    def begin(self, known: int) -> None:
        """A scan begins, with so many segments known; once in a while it is to believe nothing."""
        if known < self._few or time.monotonic() - self._read_all_at >= FULL_EVERY:
            self._read_all_at = time.monotonic()
            self._stamps.clear()

    def knows(self, name: str) -> bool:
        return name in self._stamps

    def is_unchanged(self, name: str, status: os.stat_result) -> bool:
        return self._stamps.get(name) == _stamp_of(status)

    def note(self, name: str, status: os.stat_result) -> None:
        """The directory was read after it stood so."""
        if time.time() - status.st_mtime > COARSEST_CLOCK:
            self._stamps[name] = _stamp_of(status)
        else:
            self._stamps.pop(name, None)


FULL_EVERY = 6 * 3600.0
COARSEST_CLOCK = 3.0
ALONE = 50_000
Restless = Callable[[str, int], Iterable[int]]
"""The base offsets of a topic's partition that are to be looked at in any case."""


def scan(
    data_dir: DataDir | DataDirs,
    memory: ScanMemory,
    restless: Restless = lambda *_: (),
    *,
    known: int = 0,
    alone: int = ALONE,
) -> Generator[PartitionListing, None, None]:
    """List one partition after the other. `OSError` only if a data directory cannot be read; it names that.

    A partition that cannot be read is listed with its ``problem``, and one whose directory is unchanged
    as ``partial``, with its restless segments. When more than ``alone`` segments were read, a second process
    reads those partitions of which nothing is known, from the last one on.
    """
    memory.begin(known)
    names = deque(names_in(data_dir))
    read = 0
    with Helper(data_dir) as helper:
        while names or helper.asked:
            try:
                if read > alone and names and helper.is_free and not memory.knows(names[-1]):
                    helper.ask(names.pop())
                    continue
                answered = bool(helper.asked) and helper.has_answer(wait=not names)
                look = helper.answer() if answered else _look(data_dir, names.popleft(), memory, restless)
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


def _look(data_dir: DataDir | DataDirs, name: str, memory: ScanMemory, restless: Restless) -> Look | None:
    parsed = parse_partition(name)
    if parsed is None or not memory.knows(name):
        return look_anywhere(data_dir, name)
    try:
        rows: dict[int, bytes] = {}
        with data_dir.partition(name) as partition:
            if not memory.is_unchanged(name, os.fstat(partition.fd)):
                return look_anywhere(data_dir, name)
            for offset in restless(*parsed):
                rows[offset] = pack_seen(LocalFiles(*(partition.stat(f"{offset:020d}.{kind}") for kind in FileKind)))
        return Look(PartitionListing(*parsed, rows, None, partial=True), None)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return unreadable(name, error)


def _stamp_of(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_mtime_ns, status.st_ino, status.st_dev
