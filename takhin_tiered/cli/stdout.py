"""Standard output that cannot be written: a full disk, a closed pipe, a closed descriptor.

A command reports it in one line on standard error and exits 1. Its work is still done.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn


class OutputLost(SystemExit):
    """Output was lost. ``quiet``: the reader closed the pipe, so there is nothing to report."""

    def __init__(self, error: OSError | ValueError) -> None:
        super().__init__(1)
        code = (error.errno if isinstance(error, OSError) else None) or errno.EBADF
        self.quiet = code == errno.EPIPE
        self.message = f"standard output cannot be written: {os.strerror(code)}"


class Output:
    """Replaces a standard stream, even a closed one. Everything after a failed write is discarded.

    With ``raises``, the first failed write raises `OutputLost`.
    """

    def __init__(self, file: Any, *, raises: bool) -> None:
        self._file: Any = file or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 - as long as the process lives
        self._closed = file is None
        self._raises = raises
        self.lost: OutputLost | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, text: str) -> int:
        if self._closed:
            self._lose(OSError(errno.EBADF, os.strerror(errno.EBADF)))
        self._attempt(lambda: self._file.write(text))
        return len(text)

    def write_bytes(self, data: bytes | bytearray | memoryview) -> None:
        """Bytes as they are, behind the text before them."""
        self.flush()
        if self._closed:
            self._lose(OSError(errno.EBADF, os.strerror(errno.EBADF)))
        else:
            self._attempt(lambda: self._file.buffer.write(data))

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        self._attempt(self._file.flush)

    def _attempt(self, action: Callable[[], object]) -> None:
        try:
            action()
        except (OSError, ValueError) as error:
            self._lose(error)

    def _lose(self, error: OSError | ValueError) -> None:
        if self.lost is not None:
            return
        self.lost = OutputLost(error)
        # The interpreter would try to flush the buffer again at exit, and end with a traceback.
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
            os.dup2(nowhere, self._file.fileno())
            os.close(nowhere)
        if self._raises:
            raise self.lost


def keep_descriptors() -> None:
    """Open closed standard streams, before any file is opened: a file must not get their numbers."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def with_guarded_output(command: Callable[[], None]) -> None:
    """Run a command to its end, which is a `SystemExit`."""
    output: Any = Output(sys.stdout, raises=True)
    errors: Any = Output(sys.stderr, raises=False)
    sys.stdout, sys.stderr = output, errors
    status: Any = 0
    try:
        command()
    except SystemExit as ended:
        status = ended.code
    sys.exit(_last_status(status))


def end_at_once(status: int) -> NoReturn:
    """End the process without waiting for hung threads."""
    status = _last_status(status)
    sys.stderr.flush()
    os._exit(status)


def _last_status(status: Any) -> Any:
    """The exit status of a command, after its output is flushed or known to be lost."""
    with suppress(OutputLost):
        sys.stdout.flush()
    lost: OutputLost | None = getattr(sys.stdout, "lost", None)
    if lost is None:
        return status
    if not lost.quiet:
        sys.stderr.write(f"Error: {lost.message}\n")
    return status or 1
