"""Runs the program, and kills it at a named point; a script, to be run by itself.

``FAULT_KILL_POINT`` names the point, ``FAULT_KILL_NTH`` which reaching of it (1 is the first). With
``FAULT_RECORD`` each point that is reached is added to that file, a line each, and nothing is killed.
Arguments are those of the command line; ``scrub PATH`` reads one archived segment back, which has no
command of its own.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from takhin_tiered import Settings, TieredStorage
from takhin_tiered.cli.main import main
from takhin_tiered.engine import points


def install() -> None:
    record, fatal = os.environ.get("FAULT_RECORD", ""), os.environ.get("FAULT_KILL_POINT", "")
    left = int(os.environ.get("FAULT_KILL_NTH", "1"))
    guard = threading.Lock()

    def hook(point: str) -> None:
        nonlocal left
        # Points are reached in several threads: only one at a time counts, and the first to zero kills.
        with guard:
            if record:
                with open(record, "a") as file:
                    file.write(point + "\n")
            if point == fatal:
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

    points.hook = hook


async def scrub(path: str) -> None:
    async with TieredStorage.open(Settings.load()) as storage:
        verdict = await storage.scrub_segment(path)
        print(verdict.problem)


if __name__ == "__main__":
    install()
    if sys.argv[1] == "scrub":
        asyncio.run(scrub(sys.argv[2]))
    else:
        main()
