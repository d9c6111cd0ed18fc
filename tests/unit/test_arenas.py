"""The memory arenas of a process: real threads, in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

_THREADS = """
import ctypes, sys, threading
from pathlib import Path
from takhin_tiered.machine import limit_arenas
if sys.argv[1] == "limited":
    limit_arenas(1)
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
started = threading.Barrier(8)
def allocate():
    started.wait()
    for _ in range(100):
        libc.malloc(1000)
    started.wait()
threads = [threading.Thread(target=allocate) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
ends = [line.split()[0].split("-") for line in Path("/proc/self/maps").read_text().splitlines() if " ---p " in line]
# An arena of a thread reserves 64 MiB.
print(sum(int(end, 16) - int(start, 16) > 50 << 20 for start, end in ends))
"""


def _arenas(how: str, **extra: str) -> int:
    env = {name: value for name, value in os.environ.items() if name != "MALLOC_ARENA_MAX"} | extra
    return int(subprocess.run([sys.executable, "-c", _THREADS, how], env=env, capture_output=True, check=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="arenas are glibc's")
def test_all_threads_share_one_arena() -> None:
    assert _arenas("limited") == 0
    assert _arenas("as it comes") > 0


@pytest.mark.skipif(sys.platform != "linux", reason="arenas are glibc's")
def test_an_operators_limit_prevails() -> None:
    assert _arenas("limited", MALLOC_ARENA_MAX="8") > 0
