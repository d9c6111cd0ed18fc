"""A circuit breaker: while a server is down, callers are told at once, and one of them at a time tries."""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import StrEnum


class Circuit(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Breaker:
    """Opens after ``failures`` in a row, the first of which is ``patience`` seconds ago.

    After ``pause`` seconds one call may try: the pause doubles where it fails, up to ``longest``.
    """

    def __init__(
        self,
        *,
        failures: int = 5,
        patience: float = 0.0,
        pause: float = 1.0,
        longest: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit, self._patience, self._clock = failures, patience, clock
        self._first_pause, self._longest = pause, longest
        self._pause = pause
        self._failed = 0
        self._failing_since = 0.0
        self._is_open = False
        self._open_until = 0.0
        self._probing = False
        self.last_error = ""

    @property
    def state(self) -> Circuit:
        if not self._is_open:
            return Circuit.CLOSED
        return Circuit.HALF_OPEN if self._probing or self._clock() >= self._open_until else Circuit.OPEN

    def admit(self) -> bool:
        """Whether a call may go out now. One that may must end in `succeeded`, `failed` or `abandoned`."""
        state = self.state
        if state is Circuit.CLOSED:
            return True
        if state is Circuit.OPEN or self._probing:
            return False
        self._probing = True
        return True

    def succeeded(self) -> None:
        """The server answered, whatever it said."""
        self._failed, self._is_open, self._probing, self.last_error = 0, False, False, ""
        self._pause = self._first_pause

    def failed(self, error: str) -> None:
        now = self._clock()
        if not self._failed:
            self._failing_since = now
        self._failed += 1
        self._probing, self.last_error = False, error
        if self._is_open:
            self._pause = min(self._pause * 2, self._longest)
        elif self._failed >= self._limit and now - self._failing_since >= self._patience:
            self._is_open = True
        if self._is_open:
            self._open_until = now + self._pause

    def abandoned(self) -> None:
        """The call was cancelled: nothing is known of the server."""
        self._probing = False
