"""The scan of one partition directory."""

from __future__ import annotations

import os
from typing import NamedTuple

from takhin_tiered.disk.files import DataDir, DataDirs
from takhin_tiered.disk.kafka import PARTITION_METADATA, read_topic_id
from takhin_tiered.segments.listing import PartitionListing, has_log, local_files, pack_file, row_of
from takhin_tiered.segments.model import stamp
from takhin_tiered.segments.names import OFFSET_DIGITS, TEMP_SUFFIX, FileKind, parse_offset, parse_partition

_PLACES = {f".{kind}": place for place, kind in enumerate(FileKind)}
_NONE = [b""] * len(FileKind)


_SAME_TIME_NS = 1_000_000_000


class PartitionScan(NamedTuple):
    """``directory`` is its status before it was read; None if it could not be read."""

    listing: PartitionListing
    directory: os.stat_result | None


def scan_in(data_dir: DataDir, name: str) -> PartitionScan | None:
    """None if there is no such partition; one that cannot be read is listed with its ``problem``."""
    try:
        status = os.stat(name, dir_fd=data_dir.fd, follow_symlinks=False)
        listing = scan_partition(data_dir, name)
    except FileNotFoundError:
        return None
    except OSError as error:
        return failed_scan(name, error)
    return None if listing is None else PartitionScan(listing, status)


def failed_scan(name: str, error: OSError) -> PartitionScan | None:
    parsed = parse_partition(name)
    problem = error.strerror or str(error)
    return None if parsed is None else PartitionScan(PartitionListing(*parsed, {}, None, problem=problem), None)


def scan_partition(data_dir: DataDir | DataDirs, name: str) -> PartitionListing | None:
    """List one partition; None if it is not one, or is gone. `OSError` where it cannot be read."""
    parsed = parse_partition(name)
    if parsed is None:
        return None
    try:
        return _read(data_dir, name, parsed)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _read(data_dir: DataDir | DataDirs, name: str, parsed: tuple[str, int]) -> PartitionListing:
    # A first scan handles millions of files here: avoid every call and object that is not needed.
    found: dict[str, list[bytes]] = {}
    unfinished: list[str] = []
    unseen_logs: list[str] = []
    newest, newest_digits, topic_id = -(1 << 63), "", ""
    with data_dir.partition(name) as partition, os.scandir(partition.fd) as entries:
        for entry in entries:
            file = entry.name
            place, digits = _PLACES.get(file[OFFSET_DIGITS:]), file[:OFFSET_DIGITS]
            if place is None:
                if file == PARTITION_METADATA:
                    topic_id = read_topic_id(partition.fd)
                elif file.endswith(TEMP_SUFFIX) and entry.is_file(follow_symlinks=False):
                    unfinished.append(file)
                continue
            status = _regular(entry)
            if status is not None:
                if (files := found.get(digits)) is None:
                    files = found[digits] = _NONE.copy()
                times = stamp(status.st_ino, status.st_ctime_ns)
                files[place] = pack_file(status.st_size, status.st_mtime_ns, times)
                if place == 0 and status.st_mtime_ns > newest:
                    newest, newest_digits = status.st_mtime_ns, digits
            elif place == 0:
                unseen_logs.append(digits)
    rows = {offset: row_of(files) for digits, files in found.items() if (offset := parse_offset(digits)) is not None}
    logs = [offset for digits in unseen_logs if (offset := parse_offset(digits)) is not None]
    logs += [offset for offset, row in rows.items() if has_log(row)]
    active, later = max(logs, default=None), parse_offset(newest_digits)
    if active is None or later is None or later >= active or not _is_later(newest, rows.get(active)):
        later = None
    return PartitionListing(*parsed, rows, active, tuple(unfinished), written_later=later, topic_id=topic_id)


def _is_later(modified_ns: int, row: bytes | None) -> bool:
    """Whether it was modified later than this row's log, by more than a copy of both at the same time explains."""
    log = None if row is None else local_files(row).log
    return log is not None and modified_ns - log.mtime_ns > _SAME_TIME_NS


def _regular(entry: os.DirEntry[str]) -> os.stat_result | None:
    try:
        return entry.stat(follow_symlinks=False) if entry.is_file(follow_symlinks=False) else None
    except FileNotFoundError:
        return None
