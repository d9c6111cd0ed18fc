"""A second process that scans partitions: a long scan is bound by the CPU of one Python process.

It inherits the open descriptors of the data directories, receives partition names, and ends when its pipe closes,
so also when this process is killed. If it fails, the scan continues without it.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from collections import deque
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Self

from takhin_tiered.disk.files import DataDir, DataDirs
from takhin_tiered.disk.locate import scan_located
from takhin_tiered.disk.partition_scan import PartitionScan

# Requests queued ahead, and pipe size, so that the helper does not wait for this process.
_ASKED_AT_ONCE = 4
_ROOM = 1 << 20


class HelperFailed(Exception):
    """The helper did not start, or it ended."""


class Helper:
    """Started with the first request; its responses come in the order of the requests."""

    def __init__(self, data_dir: DataDir | DataDirs) -> None:
        self._data_dir = data_dir
        self._process: subprocess.Popen[bytes] | None = None
        self._usable = bool(sys.executable) and len(os.sched_getaffinity(0)) > 1
        self.asked: deque[str] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.give_up()

    @property
    def is_free(self) -> bool:
        return self._usable and len(self.asked) < _ASKED_AT_ONCE

    def ask(self, name: str) -> None:
        self.asked.append(name)
        try:
            if self._process is None:
                self._start()
            self._questions.send_bytes(os.fsencode(name))
        except OSError as error:
            raise HelperFailed from error

    def has_answer(self, *, wait: bool) -> bool:
        return self._answers.poll(None if wait else 0)

    def answer(self) -> PartitionScan | None:
        try:
            look: PartitionScan | None = self._answers.recv()
        except (OSError, EOFError) as error:
            raise HelperFailed from error
        self.asked.popleft()
        return look

    def give_up(self) -> list[str]:
        """Stop the helper; returns the names without a response."""
        left, self._usable = list(self.asked), False
        self.asked.clear()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._questions.close()
            self._answers.close()
            self._process = None
        return left

    def _start(self) -> None:
        questions, self._questions = Pipe(duplex=False)
        self._answers, answers = Pipe(duplex=False)
        with suppress(OSError):
            fcntl.fcntl(answers.fileno(), fcntl.F_SETPIPE_SZ, _ROOM)
        roots = [(os.fspath(root.path), root.fd) for root in self._data_dir.roots]
        arguments = (roots, questions.fileno(), answers.fileno())
        descriptors = (*(fd for _, fd in roots), *arguments[1:])
        # The same module search path as this process, without the working directory.
        program = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import serve; serve{arguments}"
        with questions, answers:
            self._process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-P", "-c", program], stdin=subprocess.DEVNULL, pass_fds=descriptors
            )


def serve(roots: list[tuple[str, int]], questions_fd: int, answers_fd: int) -> None:
    """The helper's main loop; ``roots`` are the data directories, each with its descriptor."""
    # A Ctrl-C in a terminal goes to both processes: only the parent reacts.
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    data_dirs = DataDirs([DataDir(Path(path), fd) for path, fd in roots])
    questions, answers = Connection(questions_fd, writable=False), Connection(answers_fd, readable=False)
    with suppress(EOFError, BrokenPipeError):
        while True:
            answers.send(scan_located(data_dirs, os.fsdecode(questions.recv_bytes())))
