"""Which of several data directories has a partition. A broker may move partitions between them.

During a move the new copy has a name of its own (``…-future``); at the end it takes over the old one's name.
"""

from __future__ import annotations

from takhin_tiered.disk.files import DataDir, DataDirs
from takhin_tiered.disk.partition_scan import PartitionScan, failed_scan, scan_in


def names_in(dirs: DataDir | DataDirs) -> list[str]:
    """The directories in all of them, each once, in order; `OSError` if one cannot be read."""
    names: set[str] = set()
    # Read twice: a partition that moves to a directory that was read already must not seem to be gone.
    for root in [*dirs.roots, *(dirs.roots if len(dirs.roots) > 1 else ())]:
        names.update(root.names())
    return sorted(names)


def scan_located(dirs: DataDir | DataDirs, name: str) -> PartitionScan | None:
    """Locate a partition and scan it, as `scan_in`. For a duplicate partition the ``problem`` says so."""
    if len(dirs.roots) == 1:
        return scan_in(dirs.roots[0], name)
    try:
        root = dirs.root_of(name)
    except OSError as error:
        return failed_scan(name, error)
    return None if root is None else scan_in(root, name)
