"""Run one command and measure it: ``python -I -S launch.py LOG COMMAND...`` prints wall, CPU, peak memory, status.

A process of its own, and a small one: a child's peak memory begins at that of the process which started it.
"""

from __future__ import annotations

import json
import os
import sys
import time


def main() -> None:
    log, *command = sys.argv[1:]
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    started = time.perf_counter()
    pid = os.fork()
    if pid == 0:
        os.dup2(output, 1)
        os.dup2(output, 2)
        try:
            os.execvp(command[0], command)
        finally:
            os._exit(127)
    _, status, usage = os.wait4(pid, 0)
    wall = time.perf_counter() - started
    # Of the process, and of every one that it started and waited for; ru_maxrss is in KiB.
    cpu = usage.ru_utime + usage.ru_stime
    code = os.waitstatus_to_exitcode(status)
    print(json.dumps({"wall": wall, "cpu": cpu, "peak": usage.ru_maxrss * 1024, "code": code}))


main()
