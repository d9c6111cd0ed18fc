"""What storing bytes costs, for an estimate. Pure.

List prices in US dollars for a GB-month, us-east-1, as of 2025: Amazon EBS gp3 (0.08) for the broker's
disk, Amazon S3 Standard (0.023) for the archive. Requests and transfer are not in it.
"""

from __future__ import annotations

DISK_GB_MONTH = 0.08
STORE_GB_MONTH = 0.023
GB = 10**9


def saved_monthly(bytes_moved: int) -> float:
    """Dollars a month that so many bytes save in the object store instead of on the disk."""
    return bytes_moved / GB * (DISK_GB_MONTH - STORE_GB_MONTH)
