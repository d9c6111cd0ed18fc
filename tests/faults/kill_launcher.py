"""The program, with a SIGKILL of itself at the n-th time that a verb reaches a named point.

``TORTURE_POINT`` and ``TORTURE_NTH`` say where; ``TORTURE_RECORD`` names a file that gets every point reached.
``TORTURE_BETWEEN``, JSON, names a point at which another command runs to its end, once, in another environment.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from takhin_tiered import points
from takhin_tiered.cli.main import main

POINT, NTH = os.environ.get("TORTURE_POINT", ""), int(os.environ.get("TORTURE_NTH", "1"))
RECORD = os.environ.get("TORTURE_RECORD")
BETWEEN = json.loads(os.environ.get("TORTURE_BETWEEN", "null"))
seen, is_done = 0, BETWEEN is None


def reached(point: str) -> None:
    global seen, is_done
    if RECORD:
        with Path(RECORD).open("a") as file:
            file.write(point + "\n")
    if not is_done and point == BETWEEN["point"]:
        is_done = True
        subprocess.run([sys.executable, "-m", "takhin_tiered", *BETWEEN["command"]], env=BETWEEN["env"], check=True)
    if point == POINT:
        seen += 1
        if seen == NTH:
            os.kill(os.getpid(), signal.SIGKILL)


points.hook = reached
main()
