"""One member of a consumer group, as the coordinator keeps it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from takhin_tiered.kafka.membership import Join, Joined, JoinedMember, MemberView, Protocol, Synced

_OVERHEAD = 1024
"""Bytes that a member takes besides what it sent."""
_Answer = TypeVar("_Answer")


class Member:
    """``joining`` and ``syncing``: answers that the member waits for; one whose connection closed is cancelled.

    ``ended`` is called when its session ends: ``session_timeout`` after the last `touch`, but not while it waits.
    """

    __slots__ = (
        "_deadline", "_ended", "_loop", "_new_until", "_timer", "assignment", "client_host", "client_id", "cost", "id",
        "instance", "is_new", "joining", "protocols", "rebalance_timeout", "session_timeout", "syncing",
    )  # fmt: skip

    def __init__(self, identity: str, request: Join, new_timeout: float, ended: Callable[[Member], None]) -> None:
        self.id, self.instance = identity, request.instance
        self.assignment = b""
        self.joining: asyncio.Future[Joined] | None = None
        self.syncing: asyncio.Future[Synced] | None = None
        self._loop, self._ended = asyncio.get_running_loop(), ended
        # It may fire before the deadline, and looks again: a heartbeat then costs no new timer.
        self._timer: asyncio.TimerHandle | None = None
        self._deadline = self._loop.time()
        self.is_new, self._new_until = True, self._deadline + new_timeout
        self.update(request)

    def update(self, request: Join) -> None:
        self.client_id, self.client_host = request.client_id, request.client_host
        self.protocols: tuple[Protocol, ...] = request.protocols
        self.session_timeout = request.session_timeout
        self.rebalance_timeout = max(0.0, request.rebalance_timeout)
        self.cost = cost_of(request)

    @property
    def is_joining(self) -> bool:
        return self.joining is not None and not self.joining.done()

    @property
    def is_waiting(self) -> bool:
        return self.is_joining or (self.syncing is not None and not self.syncing.done())

    def metadata(self, protocol: str) -> bytes:
        return next((each.metadata for each in self.protocols if each.name == protocol), b"")

    def as_joined(self, protocol: str) -> JoinedMember:
        return JoinedMember(self.id, self.instance, self.metadata(protocol))

    def view(self, protocol: str) -> MemberView:
        """Without a protocol: as of a group that is not stable."""
        metadata, assignment = (self.metadata(protocol), self.assignment) if protocol else (b"", b"")
        return MemberView(self.id, self.instance, self.client_id, self.client_host, metadata, assignment)

    def answer_join(self, answer: Joined) -> None:
        _answer(self.joining, answer)
        self.joining = None

    def answer_sync(self, answer: Synced) -> None:
        _answer(self.syncing, answer)
        self.syncing = None

    def touch(self) -> None:
        """The session begins again."""
        self._deadline = self._loop.time() + self.session_timeout
        if self._timer is None or self._timer.when() > self._deadline:
            self._watch()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _watch(self) -> None:
        self.stop()
        self._timer = self._loop.call_at(self._deadline, self._look)

    def _look(self) -> None:
        now, self._timer = self._loop.time(), None
        # Who waits for an answer sends no heartbeats. A new member may be gone without anybody knowing its ID.
        if self.is_waiting and not (self.is_new and now >= self._new_until):
            self._deadline = now + self.session_timeout
        if now < self._deadline:
            self._watch()
        else:
            self._ended(self)


def cost_of(request: Join) -> int:
    """Bytes that a member with this request takes: its ID repeats the client's or the instance's."""
    names = len(request.client_id) * 2 + len(request.client_host) + len(request.instance or "") * 2
    return _OVERHEAD + names + sum(len(each.name) + len(each.metadata) + 128 for each in request.protocols)


def _answer(waiting: asyncio.Future[_Answer] | None, answer: _Answer) -> None:
    if waiting is not None and not waiting.done():
        waiting.set_result(answer)
