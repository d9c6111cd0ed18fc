"""Scan: which segments stand in the data directory. Blocking, so called in a thread.

Only ``<topic>-<partition>/<20 digits>.{log,index,timeindex}`` that are regular files in a real
directory count. Snapshots, transaction indexes, checkpoints, ``.deleted``, ``.cleaned``, ``.swap``,
the directories that a broker is deleting or moving (``…-delete``, ``…-stray``, ``…-future``) and
every symlink are left alone. What vanishes in the middle of a scan was never there.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator

from takhin_tiered.disk.files import DataDir
from takhin_tiered.segments.listing import PartitionListing, has_log, pack_file, pack_seen, row_of
from takhin_tiered.segments.model import LocalFiles, stamp
from takhin_tiered.segments.names import OFFSET_DIGITS, TEMP_SUFFIX, FileKind, parse_offset, parse_partition

_PLACES = {f".{kind}": place for place, kind in enumerate(FileKind)}


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
Restless = Callable[[str, int], Iterable[int]]
"""The base offsets of a topic's partition that are to be looked at in any case."""


def scan(
    data_dir: DataDir, memory: ScanMemory, restless: Restless = lambda *_: (), *, known: int = 0
) -> Iterator[PartitionListing]:
    """List one partition after the other, by name. `OSError` only if the data directory cannot be read.

    A partition that cannot be read is listed with its ``problem``, and one whose directory is unchanged
    as ``partial``, with its restless segments.
    """
    memory.begin(known)
    with os.scandir(data_dir.fd) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    for name in names:
        parsed = parse_partition(name)
        if parsed is None:
            continue
        try:
            listing = _list(data_dir, name, parsed, memory, restless)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            listing = PartitionListing(*parsed, {}, None, problem=error.strerror or str(error))
        yield listing


def _list(
    data_dir: DataDir, name: str, parsed: tuple[str, int], memory: ScanMemory, restless: Restless
) -> PartitionListing:
    status = os.stat(name, dir_fd=data_dir.fd, follow_symlinks=False)
    if not memory.is_unchanged(name, status):
        listing = _read(data_dir, name, parsed)
        memory.note(name, status)
        return listing
    rows: dict[int, bytes] = {}
    with data_dir.partition(name) as partition:
        for offset in restless(*parsed):
            rows[offset] = pack_seen(LocalFiles(*(partition.stat(f"{offset:020d}.{kind}") for kind in FileKind)))
    return PartitionListing(*parsed, rows, None, partial=True)


def scan_partition(data_dir: DataDir, name: str) -> PartitionListing | None:
    """List one partition; None if it is not one, or is gone. `OSError` where it cannot be read."""
    parsed = parse_partition(name)
    if parsed is None:
        return None
    try:
        return _read(data_dir, name, parsed)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _read(data_dir: DataDir, name: str, parsed: tuple[str, int]) -> PartitionListing:
    # A first scan comes by here for each of millions of files: nothing is called or made that need not be.
    found: dict[str, list[bytes]] = {}
    unfinished: list[str] = []
    unseen_logs: list[str] = []
    with data_dir.partition(name) as partition, os.scandir(partition.fd) as entries:
        for entry in entries:
            file = entry.name
            place, digits = _PLACES.get(file[OFFSET_DIGITS:]), file[:OFFSET_DIGITS]
            if place is None:
                if file.endswith(TEMP_SUFFIX) and entry.is_file(follow_symlinks=False):
                    unfinished.append(file)
                continue
            status = _regular(entry)
            if status is not None:
                if (files := found.get(digits)) is None:
                    files = found[digits] = [b"", b"", b""]
                times = stamp(status.st_ino, status.st_ctime_ns)
                files[place] = pack_file(status.st_size, status.st_mtime_ns, times)
            elif place == 0:
                unseen_logs.append(digits)
    rows = {offset: row_of(*files) for digits, files in found.items() if (offset := parse_offset(digits)) is not None}
    logs = [offset for digits in unseen_logs if (offset := parse_offset(digits)) is not None]
    logs += [offset for offset, row in rows.items() if has_log(row)]
    return PartitionListing(*parsed, rows, max(logs, default=None), tuple(unfinished))


def _stamp_of(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_mtime_ns, status.st_ino, status.st_dev


def _regular(entry: os.DirEntry[str]) -> os.stat_result | None:
    try:
        return entry.stat(follow_symlinks=False) if entry.is_file(follow_symlinks=False) else None
    except FileNotFoundError:
        return None
