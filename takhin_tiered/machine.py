"""Facts about this machine: its boot, its processes, and a clock that nobody sets.

They come from Linux's ``/proc``; on other systems, or if it is hidden, they are unknown.
"""

from __future__ import annotations

import contextlib
import os
import resource
import sys
import time
from pathlib import Path

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
"""Source: mallopt(3)."""
_START_TIME = 19
"""Index of the start time in ``/proc/<pid>/stat``, counted from the state after the name. Source: proc(5)."""


def uptime() -> float:
    """Seconds by a clock that neither operators nor NTP set, and that runs while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def limit_arenas(count: int) -> None:
    """Let all threads share so many memory arenas. By default glibc gives each its own, and keeps what it once held."""
    _set_malloc({"MALLOC_ARENA_MAX": (_M_ARENA_MAX, count)})


def reuse_blocks(size: int) -> None:
    """Let blocks of up to so many bytes be used again. By default glibc maps large ones anew each time."""
    _set_malloc(
        {
            "MALLOC_MMAP_THRESHOLD_": (_M_MMAP_THRESHOLD, size),
            "MALLOC_TRIM_THRESHOLD_": (_M_TRIM_THRESHOLD, 2 * size),
        }
    )


def _set_malloc(wanted: dict[str, tuple[int, int]]) -> None:
    """Each by the variable with which an operator may have set it."""
    # On a system with another allocator it is left as it is.
    with contextlib.suppress(AttributeError, ImportError, OSError):
        import ctypes  # Slow to import.

        libc = ctypes.CDLL(None)
        for name, (number, value) in wanted.items():
            if name not in os.environ:
                libc.mallopt(number, value)


def allow_open_files() -> int:
    """Take as many file descriptors as this process may have, often a thousand times the default; returns how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Where it is refused, the default stays.
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


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


def is_gone(pid: int, started: int, *, space: str, here: str) -> bool:
    """Whether a process is certainly not there any more: one of another space than ``here`` may be."""
    return space == here != "" and not is_alive(pid, started)


def _stat_fields(pid: int) -> list[str]:
    try:
        # The name, in parentheses, may contain spaces and parentheses.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
