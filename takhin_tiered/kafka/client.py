"""Who asks: what a handler gets to know of the client, and a place for what it keeps open for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True, eq=False)
class Client:
    """One connection. Its requests are handled one at a time: ``id`` and ``version`` are those of this request.

    A handler that remembers a client beyond its request copies what it needs.
    """

    address: str
    """Of the other side, without the port."""
    local: tuple[str, int] = ("", 0)
    """The address and the port that the client connected to."""
    id: str = ""
    """``client.id``; it may change from request to request."""
    software: str = ""
    """Name and version of the library, where it told them."""
    user: str = ""
    """Empty without SASL."""
    version: int = 0
    """Of the API that is being asked."""
    sessions: AsyncExitStack = field(default_factory=AsyncExitStack)
    """Closed with the connection."""
    _after_answer: list[Callable[[], None]] = field(default_factory=list)

    def on_close(self, callback: Callable[[], None]) -> None:
        """Call this when the connection has ended, whoever ended it."""
        self.sessions.callback(callback)

    def after_answer(self, callback: Callable[[], None]) -> None:
        """Call this once the answer to the present request has been sent, or is not sent any more."""
        self._after_answer.append(callback)

    def answered(self) -> None:
        callbacks, self._after_answer = self._after_answer, []
        for callback in callbacks:
            callback()


Handler = Callable[[Any, Client], Awaitable[Any | None]]
"""Takes a request, and gives the response; None where the protocol has none."""
