"""Restores and archives that somebody asked for by a click: they go on when the page is left."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Literal

from takhin_tiered import logs
from takhin_tiered.errors import InGlacier, TakhinError

_RUNNING_AT_MOST = 32
_KEPT = 50
_AT_ONCE_SECONDS = 1.5

ActionState = Literal["running", "requested", "done", "failed"]


class TooMany(TakhinError):
    """So many actions run already."""

    code = "too_many"
    http_status = 429


@dataclass(slots=True)
class Action:
    """``error`` is why it failed, or what it waits for; times are in seconds since the epoch."""

    number: int
    verb: Literal["archive", "restore"]
    path: str
    began: float
    correlation_id: str
    ended: float | None = None
    error: str = ""
    is_requested: bool = False

    @property
    def state(self) -> ActionState:
        if self.ended is None:
            return "running"
        if self.is_requested:
            return "requested"
        return "failed" if self.error else "done"


class Actions:
    """Those that run, and the last ones that ended."""

    def __init__(self) -> None:
        self._recent: deque[Action] = deque(maxlen=_KEPT)
        self._tasks: set[asyncio.Task[None]] = set()
        self._number = 0
        self._is_closed = False

    def recent(self, path: str | None = None) -> list[Action]:
        """The latest first; all, or those of one segment."""
        return [action for action in reversed(self._recent) if path in {None, action.path}]

    async def begin(self, verb: Literal["archive", "restore"], path: str, work: Coroutine[Any, Any, object]) -> Action:
        """Begin it, and wait a moment: most are done then. `TooMany` where too many run, or the daemon stops."""
        if self._is_closed or len(self._tasks) >= _RUNNING_AT_MOST:
            work.close()
            why = "the daemon stops" if self._is_closed else f"{len(self._tasks)} restores and archives run already"
            raise TooMany(f"{why}: nothing was begun. Try again later")
        self._number += 1
        action = Action(self._number, verb, path, time.time(), logs.correlation_id())
        self._recent.append(action)
        task = asyncio.create_task(self._run(action, work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await asyncio.wait({task}, timeout=_AT_ONCE_SECONDS)
        return action

    async def _run(self, action: Action, work: Coroutine[Any, Any, object]) -> None:
        try:
            await work
        except TakhinError as error:
            action.error = str(error)
            action.is_requested = isinstance(error, InGlacier) and error.is_requested
            log, end = (logs.logger().info, "waits") if action.is_requested else (logs.logger().warning, "failed")
            log(f"{action.verb} {end}", segment=action.path, code=error.code, error=str(error))
        except asyncio.CancelledError:
            action.error = "the daemon stopped before it was done. Nothing is lost: begin it again"
            raise
        except Exception as error:  # noqa: BLE001 - a bug in one action must not stop the daemon
            action.error = "unexpected error: the daemon's log has it under this correlation ID"
            logs.logger().error(f"{action.verb} failed with an unexpected error", exc_info=error)
        finally:
            action.ended = time.time()

    async def finish(self) -> None:
        """Begin nothing more, and wait for what runs; cancelled, it cancels that."""
        self._is_closed = True
        try:
            while self._tasks:
                await asyncio.wait(set(self._tasks))
        except asyncio.CancelledError:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            raise
