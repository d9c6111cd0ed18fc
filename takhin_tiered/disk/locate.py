"""Where partitions stand: in which of several data directories, of which a broker moves them from one to another.

While it does so the new copy has a name of its own (``…-future``), and only at the end takes the old one's.
"""

from __future__ import annotations

from takhin_tiered.disk.files import DataDir, DataDirs
from takhin_tiered.disk.partition_scan import PartitionScan, failed_scan, scan_in


def names_in(dirs: DataDir | DataDirs) -> list[str]:
    """The directories in all of them, each once, in order; `OSError` where one cannot be read."""
    names: set[str] = set()
    # Each is read twice: what moves from one that is yet to be read to one that was must not seem to be gone.
    for root in [*dirs.roots, *(dirs.roots if len(dirs.roots) > 1 else ())]:
        names.update(root.names())
    return sorted(names)


def scan_located(dirs: DataDir | DataDirs, name: str) -> PartitionScan | None:
    """A look at a partition where it stands; as `scan_in`. One that stands twice has that as its ``problem``."""
    if len(dirs.roots) == 1:
        return scan_in(dirs.roots[0], name)
    try:
        root = dirs.root_of(name)
    except OSError as error:
        return failed_scan(name, error)
    return None if root is None else scan_in(root, name)
