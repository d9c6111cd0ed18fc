"""What this machine tells of itself: its boot, its processes, and a clock that nobody sets.

All of it comes from Linux's ``/proc``; elsewhere, or where it is hidden, the answer is "not known".
"""

from __future__ import annotations

import os
import time
from pathlib import Path

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_START_TIME = 19
"""The field of ``/proc/<pid>/stat`` behind the name, counted from the state: ticks since the boot. Source: proc(5)."""


def uptime() -> float:
    """Seconds by a clock that no operator and no NTP sets, and that goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def boot_id() -> str:
    """Names this boot of this kernel; containers on it share it. Empty where not known."""
    try:
        return _BOOT.read_text().strip()
    except OSError:
        return ""


def process_space() -> str:
    """Names the boot and the namespace in which a process ID means the same process. Empty where not known."""
    boot = boot_id()
    try:
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}" if boot else ""
    except OSError:
        return ""


def started_at(pid: int) -> int:
    """When a process was started, in ticks since the boot: this tells two of the same ID apart. 0 where not known."""
    fields = _stat_fields(pid)
    return int(fields[_START_TIME]) if len(fields) > _START_TIME else 0


def is_alive(pid: int, started: int = 0) -> bool:
    """Whether a process of this `process_space` lives. ``started`` as `started_at` told it, 0 where not known."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        # It is another user's.
        pass
    fields = _stat_fields(pid)
    if len(fields) <= _START_TIME:
        return True
    return fields[0] not in {"Z", "X"} and started in {0, int(fields[_START_TIME])}


def _stat_fields(pid: int) -> list[str]:
    try:
        # The name, in brackets, may hold spaces and brackets.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
