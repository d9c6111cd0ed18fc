"""Logs: structlog to standard error, as JSON or text, with a correlation id through each operation."""

from __future__ import annotations

import atexit
import io
import logging
import os
import select
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from types import ModuleType
from typing import Any, NamedTuple
from uuid import uuid4

_LEVELS = {"debug": 10, "info": 20, "warn": 30, "warning": 30, "error": 40}


class _Style(NamedTuple):
    level: int
    as_json: bool
    colours: bool

    def processors(self) -> list[Any]:
        """The last processor renders the line."""
        from structlog import contextvars, dev, processors

        last: Any = processors.JSONRenderer() if self.as_json else dev.ConsoleRenderer(colors=self.colours)
        return [
            contextvars.merge_contextvars,
            _name_operation,
            processors.add_log_level,
            processors.TimeStamper(fmt="iso", utc=True),
            processors.format_exc_info,
            last,
        ]


class _Operation(NamedTuple):
    """What a verb's log lines tell besides their own words."""

    correlation_id: str
    verb: str
    segment: str


# Of our own, as a batch enters and leaves it many times for each segment, and structlog's take longer.
_operation: ContextVar[_Operation | None] = ContextVar("operation", default=None)
_style: _Style | None = None
_is_set_up = False


def _structlog() -> ModuleType:
    """Import and configure structlog at the first line: most commands log nothing, and it imports all of rich."""
    global _is_set_up  # noqa: PLW0603 - as the library's own configuration, there is one for the process
    import structlog

    if _style is not None and not _is_set_up:
        _is_set_up = True
        structlog.configure(
            processors=_style.processors(),
            wrapper_class=structlog.make_filtering_bound_logger(_style.level),
            # Looked up for each line: a progress bar may replace standard error.
            logger_factory=lambda *_: structlog.PrintLogger(_STDERR),
            cache_logger_on_first_use=False,
        )
    return structlog


class _LinesOfLibraries(logging.Formatter):
    """Log lines of libraries, in the format of our own."""

    def __init__(self, style: _Style) -> None:
        super().__init__()
        self._processors = style.processors
        self._formatter: logging.Formatter | None = None

    def format(self, record: logging.LogRecord) -> str:
        if self._formatter is None:
            *shared, last = self._processors()
            self._formatter = _structlog().stdlib.ProcessorFormatter(processor=last, foreign_pre_chain=shared)
        return self._formatter.format(record)


def configure(level: str, style: str) -> None:
    """Configure structlog, and send the libraries' log lines through it; ``style`` is json or text."""
    global _style, _is_set_up
    _style, _is_set_up = _Style(_LEVELS[level], style == "json", sys.stderr.isatty()), False
    if "structlog" in sys.modules:
        # Existing loggers follow the new configuration.
        _structlog()
    handler = logging.StreamHandler(_STDERR)
    handler.setFormatter(_LinesOfLibraries(_style))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # Only warnings of libraries: botocore's debug lines contain signatures.
    root.setLevel(max(_LEVELS[level], logging.WARNING))


def configure_for_command(level: str = "warning") -> None:
    """For a terminal: text, and a library's error without its traceback."""
    configure(level, "text")
    for handler in logging.getLogger().handlers:
        handler.addFilter(_without_traceback)


def _without_traceback(record: logging.LogRecord) -> bool:
    if record.exc_info and record.exc_info[1] is not None:
        record.msg, record.args = f"{record.getMessage()}: {record.exc_info[1]}", ()
    record.exc_info = record.exc_text = None
    return True


_KEPT = 1 << 20
_LAST_WAIT = 2.0


class _NonBlockingWriter(io.TextIOBase):
    """Writes to a pipe or a socket without blocking.

    If the reader stalls, lines are buffered up to a size, then dropped: a stalled reader must not stall the daemon.
    """

    def __init__(self, fd: int, send: Callable[[int, bytes], int]) -> None:
        self._fd, self._send = fd, send
        self._left = bytearray()
        self._dropped = 0
        self._writing = threading.Lock()
        atexit.register(self._end)

    def _end(self) -> None:
        """At exit, wait briefly for the reader."""
        end = time.monotonic() + _LAST_WAIT
        while self._left and (left := end - time.monotonic()) > 0:
            if select.select((), (self._fd,), (), left)[1]:
                with suppress(OSError):
                    self._push()

    def write(self, text: str) -> int:
        with self._writing:
            if len(self._left) > _KEPT:
                self._dropped += text.count("\n")
                self._push()
                return len(text)
            if self._dropped:
                self._left += f"{self._dropped} log lines were dropped: the reader of standard error stalled\n".encode()
                self._dropped = 0
            self._left += text.encode(errors="backslashreplace")
            if text.endswith("\n"):
                self._push()
        return len(text)

    def _push(self) -> None:
        with suppress(BlockingIOError):
            while self._left:
                del self._left[: self._send(self._fd, bytes(self._left[:_PIECE]))]


_PIECE = 4096
"""Writes up to this size are atomic on a pipe. Source: pipe(7), PIPE_BUF."""


def use_nonblocking_stderr() -> None:
    """From now on log lines do not block on standard error, if it is a pipe or a socket."""
    with suppress(OSError, ValueError, AttributeError):
        fd = sys.stderr.fileno()
        mode = os.fstat(fd).st_mode
        if stat.S_ISFIFO(mode):
            # Reopened, because other processes may share the old description and expect it to block.
            own = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            _STDERR.use(_NonBlockingWriter(own, os.write))
        elif stat.S_ISSOCK(mode):
            _STDERR.use(_NonBlockingWriter(fd, _send_now))


def _send_now(fd: int, data: bytes) -> int:
    with socket.socket(fileno=os.dup(fd)) as connection:
        return connection.send(data, socket.MSG_DONTWAIT)


class _StandardError(io.TextIOBase):
    """The present standard error, which a progress bar may have replaced.

    If it cannot be written (disk full, reader gone), the line is lost and the work continues: a program that frees
    disks must not stop because one is full.
    """

    def __init__(self) -> None:
        self._other: io.TextIOBase | None = None

    def use(self, other: io.TextIOBase) -> None:
        """Write there instead."""
        self._other = other

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError, AttributeError):
            (self._other or sys.stderr).write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError, AttributeError):
            (self._other or sys.stderr).flush()


_STDERR: Any = _StandardError()


def logger() -> Any:
    """Each line tells the operation that it belongs to."""
    plain = _structlog().get_logger()
    return plain if (current := _operation.get()) is None else plain.bind(**current._asdict())


def is_debug() -> bool:
    """Whether lines of this level are wanted: what comes a thousand times a second is not put together else."""
    return _style is not None and _style.level <= _LEVELS["debug"]


def always() -> Any:
    """A logger for requested output: it writes whatever the level is."""
    structlog = _structlog()
    return structlog.wrap_logger(structlog.PrintLogger(_STDERR), wrapper_class=structlog.make_filtering_bound_logger(0))


def new_correlation_id() -> str:
    return uuid4().hex[:16]


def _name_operation(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A processor of structlog, for what libraries say within an operation."""
    if (current := _operation.get()) is not None:
        event.update({name: value for name, value in current._asdict().items() if name not in event})
    return event


def correlation_id() -> str:
    """The ID bound to the caller's context, or a new one."""
    return running_operation()[1] or new_correlation_id()


def running_operation() -> tuple[str, str]:
    """The verb that is at work here, and its correlation ID: of a request, where no verb is; else both empty."""
    if (current := _operation.get()) is not None:
        return current.verb, current.correlation_id
    bound = sys.modules["structlog"].contextvars.get_contextvars() if "structlog" in sys.modules else {}
    return "", str(bound.get("correlation_id") or "")


def exemplar(correlation: str = "") -> dict[str, str] | None:
    """What leads from a sample of a metric to lines of the log: the ID that is given, or the caller's if it has one."""
    identifier = correlation or running_operation()[1]
    # OpenMetrics allows 128 characters for the names and values of an exemplar's labels together.
    return {"correlation_id": identifier[:100]} if identifier else None


@contextmanager
def operation(verb: str, segment: str, correlation: str = "") -> Iterator[None]:
    """Within: bind segment, verb and correlation ID (default: the caller's) to every line."""
    token = _operation.set(_Operation(correlation or correlation_id(), verb, segment))
    try:
        yield
    finally:
        _operation.reset(token)
