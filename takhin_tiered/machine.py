"""Facts about this machine: its boot, its processes, and a clock that nobody sets.

They come from Linux's ``/proc``; on other systems, or if it is hidden, they are unknown.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_M_ARENA_MAX = -8
"""Source: mallopt(3)."""
_START_TIME = 19
"""Index of the start time in ``/proc/<pid>/stat``, counted from the state after the name. Source: proc(5)."""


def uptime() -> float:
    """Seconds by a clock that neither operators nor NTP set, and that runs while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def limit_arenas(count: int) -> None:
    """Let all threads share so many memory arenas. By default glibc gives each its own, and keeps what it once held."""
    if "MALLOC_ARENA_MAX" in os.environ:
        return
    # On a system with another allocator it is left as it is.
    with contextlib.suppress(AttributeError, ImportError, OSError):
        import ctypes  # Slow to import.

        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, count)


def boot_id() -> str:
    """The ID of this boot of the kernel, shared by all containers on it. Empty if unknown."""
    try:
        return _BOOT.read_text().strip()
    except OSError:
        return ""


def process_space() -> str:
    """The boot and the PID namespace in which a process ID identifies a process. Empty if unknown."""
    boot = boot_id()
    try:
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}" if boot else ""
    except OSError:
        return ""


def started_at(pid: int) -> int:
    """When a process was started, in ticks since the boot: it distinguishes reused IDs. 0 if unknown."""
    fields = _stat_fields(pid)
    return int(fields[_START_TIME]) if len(fields) > _START_TIME else 0


def is_alive(pid: int, started: int = 0) -> bool:
    """Whether a process of this `process_space` is alive. ``started`` is from `started_at`, 0 if unknown."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        # The process belongs to another user.
        pass
    fields = _stat_fields(pid)
    if len(fields) <= _START_TIME:
        return True
    return fields[0] not in {"Z", "X"} and started in {0, int(fields[_START_TIME])}


def _stat_fields(pid: int) -> list[str]:
    try:
        # The name, in parentheses, may contain spaces and parentheses.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
