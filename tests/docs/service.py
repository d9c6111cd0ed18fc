"""What `systemctl` does with the daemon, for the pages' commands: `python -m tests.docs.service ROOT VERB… UNIT`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx

from tests.support import wait_until

SIGNALS = {"reload": signal.SIGHUP, "kill": signal.SIGUSR1}


def start(root: Path) -> None:
    if pid(root) is not None:
        return
    with (root / "log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "takhin_tiered", "run"], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    (root / "pid").write_text(str(process.pid))

    def ready() -> bool:
        if not is_alive(process.pid):
            raise SystemExit((root / "log").read_text()[-2000:])
        try:
            return httpx.get(f"{os.environ['WORLD_API']}/readyz", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    wait_until(ready, seconds=60, what="the daemon")


def stop(root: Path) -> None:
    if (number := pid(root)) is None:
        return
    os.kill(number, signal.SIGTERM)
    wait_until(lambda: not is_alive(number), seconds=60, what="the end of the daemon")
    (root / "pid").unlink()


def pid(root: Path) -> int | None:
    """That of the daemon, if it is alive."""
    file = root / "pid"
    number = int(file.read_text()) if file.exists() else None
    return number if number is not None and is_alive(number) else None


def is_alive(number: int) -> bool:
    """Nobody may have waited for one that ended: then it is a zombie."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def main(root: Path, verb: str, *rest: str) -> None:
    if verb == "daemon-reload":
        return
    assert rest[-1] == "takhin-tiered", rest
    if verb in {"start", "enable"}:
        start(root)
    elif verb == "stop":
        stop(root)
    elif verb == "restart":
        stop(root)
        start(root)
    elif (number := pid(root)) is not None:
        os.kill(number, SIGNALS[verb])
    else:
        raise SystemExit("takhin-tiered is not running")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
