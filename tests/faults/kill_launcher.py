"""The program, with a SIGKILL of itself at the n-th time that a verb reaches a named point.

``TORTURE_POINT`` and ``TORTURE_NTH`` say where; ``TORTURE_RECORD`` names a file that gets every point reached.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

from takhin_tiered import points
from takhin_tiered.cli.main import main

POINT, NTH = os.environ.get("TORTURE_POINT", ""), int(os.environ.get("TORTURE_NTH", "1"))
RECORD = os.environ.get("TORTURE_RECORD")
seen = 0


def reached(point: str) -> None:
    global seen
    if RECORD:
        with Path(RECORD).open("a") as file:
            file.write(point + "\n")
    if point == POINT:
        seen += 1
        if seen == NTH:
            os.kill(os.getpid(), signal.SIGKILL)


points.hook = reached
main()
