"""Our daemon, as a process, until it is ready and while it is asked."""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

from benchmarks.bench import ours
from benchmarks.measure import require, tail
from benchmarks.server import free_port

_READY_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Running:
    """``ready_after`` is seconds from the start of the process to its first answer that it is ready."""

    process: subprocess.Popen[bytes]
    address: str
    ready_after: float

    def memory(self) -> tuple[int, int]:
        """Bytes in memory: now, and at the peak."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        values = dict(line.split(":", 1) for line in status.splitlines())
        return int(values["VmRSS"].split()[0]) * 1024, int(values["VmHWM"].split()[0]) * 1024


@contextmanager
def daemon(env: Mapping[str, str], log: Path) -> Iterator[Running]:
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    with log.open("ab") as output:
        started = time.perf_counter()
        process = subprocess.Popen(
            ours("run"),
            env={**env, "TAKHIN_STORAGE_TIERED_API_PORT": str(port)},
            stdout=output,
            stderr=output,
        )
    try:
        while not _is_ready(address):
            waited = time.perf_counter() - started
            require(process.poll() is None and waited < _READY_SECONDS, f"the daemon is not ready:\n{tail(log)}")
            time.sleep(0.01)
        yield Running(process, address, time.perf_counter() - started)
    finally:
        process.terminate()
        process.wait(60)


def _is_ready(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False


def python(*arguments: str) -> list[str]:
    return [sys.executable, *arguments]
