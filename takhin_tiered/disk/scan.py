"""Scan: which segments stand in the data directory. Blocking, so called in a thread.

Only ``<topic>-<partition>/<20 digits>.{log,index,timeindex}`` that are regular files in a real
directory count. Snapshots, transaction indexes, checkpoints, ``.deleted``, ``.cleaned``, ``.swap``,
the directories that a broker is deleting or moving (``…-delete``, ``…-stray``, ``…-future``) and
every symlink are left alone. What vanishes in the middle of a scan was never there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from takhin_tiered.disk.files import DataDir, as_file_stat
from takhin_tiered.segments.model import NO_FILES, FileStat, LocalFiles, PartitionListing
from takhin_tiered.segments.names import TEMP_SUFFIX, FileKind, parse_file, parse_partition


def scan(data_dir: DataDir) -> Iterator[PartitionListing]:
    """List one partition after the other, by name. `OSError` only if the data directory cannot be read.

    A partition that cannot be read is listed with its ``problem``.
    """
    with os.scandir(data_dir.fd) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    for name in names:
        try:
            listing = scan_partition(data_dir, name)
        except OSError as error:
            topic, partition = parse_partition(name) or ("", 0)
            listing = PartitionListing(topic, partition, {}, None, problem=error.strerror or str(error))
        if listing is not None:
            yield listing


def scan_partition(data_dir: DataDir, name: str) -> PartitionListing | None:
    """List one partition; None if it is not one, or is gone. `OSError` where it cannot be read."""
    parsed = parse_partition(name)
    if parsed is None:
        return None
    segments: dict[int, LocalFiles] = {}
    unfinished: list[str] = []
    active = -1
    try:
        with data_dir.partition(name) as partition, os.scandir(partition.fd) as entries:
            for entry in entries:
                file = parse_file(entry.name)
                if file is None:
                    if entry.name.endswith(TEMP_SUFFIX) and entry.is_file(follow_symlinks=False):
                        unfinished.append(entry.name)
                    continue
                offset, kind = file
                if kind is FileKind.LOG:
                    active = max(active, offset)
                if (stat := _stat(entry)) is not None:
                    segments[offset] = segments.get(offset, NO_FILES).with_file(kind, stat)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return PartitionListing(parsed[0], parsed[1], segments, active if active >= 0 else None, tuple(unfinished))


def _stat(entry: os.DirEntry[str]) -> FileStat | None:
    try:
        if not entry.is_file(follow_symlinks=False):
            return None
        status = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None
    return as_file_stat(status)
