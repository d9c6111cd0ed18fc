"""What changes while a page is open: numbers and transfers, sent each second over server-sent events.

The streams are few, of all and of one visitor: one that gives way to a newer one says so. They end with the session,
with the daemon, or after an hour: the browser then asks again.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Callable
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from takhin_tiered.dashboard import words
from takhin_tiered.dashboard.actions import Actions
from takhin_tiered.dashboard.looking import troubles
from takhin_tiered.dashboard.places import Place, Places
from takhin_tiered.metrics import value_of
from takhin_tiered.tiered_storage import TieredStorage

_EACH_SECONDS = 1.0
_HEARTBEAT_SECONDS = 15.0
_LONGEST_SECONDS = 3600.0
_TROUBLES_SECONDS = 5.0
_SHOWN = 50
_SMOOTH = 0.4
"""How much the last second counts in a rate."""


class Stream(StreamingResponse):
    """Has its place among the streams from when it is made, so that many at once are no more than there may be."""

    def __init__(self, live: Live, place: Place, is_welcome: Callable[[], bool]) -> None:
        super().__init__(
            live.events(place, is_welcome),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )
        self._places, self._place = live.places, place

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._places.leave(self._place)


class Live:
    def __init__(self, storage: TieredStorage, actions: Actions) -> None:
        self._storage, self._actions = storage, actions
        self.places = Places()
        self._made_at = self._troubled_at = float("-inf")
        self._news: dict[str, Any] = {}
        self._troubles = 0
        self._moved: tuple[float, int, int] | None = None
        self._rates = [0.0, 0.0]
        self._done: dict[tuple[str, str, float], tuple[float, int, float]] = {}

    def open(self, owner: str, at_most: int, is_welcome: Callable[[], bool]) -> Stream | None:
        """None where there are as many as there may be; ``at_most`` are of this owner."""
        place = self.places.take(owner, at_most)
        return None if place is None else Stream(self, place, is_welcome)

    async def events(self, place: Place, is_welcome: Callable[[], bool]) -> AsyncGenerator[str, None]:
        """Until the end; each is sent only if it tells something new."""
        began = sent_at = time.monotonic()
        last = ""
        yield "retry: 3000\n\n"
        while self._goes_on(began) and is_welcome() and not place.gives_way.is_set():
            text = json.dumps(self.news(), separators=(",", ":"))
            if text != last:
                yield f"data: {text}\n\n"
                last, sent_at = text, time.monotonic()
            elif time.monotonic() - sent_at > _HEARTBEAT_SECONDS:
                yield ": still here\n\n"
                sent_at = time.monotonic()
            await self._pause(place)
        if place.gives_way.is_set():
            # The page asks again when somebody looks at it: at once, it would take the place of the next one.
            yield "event: paused\ndata: {}\n\n"

    def _goes_on(self, began: float) -> bool:
        return not self._storage.stopping.is_set() and time.monotonic() - began < _LONGEST_SECONDS

    async def _pause(self, place: Place) -> None:
        ends = [asyncio.ensure_future(event.wait()) for event in (self._storage.stopping, place.gives_way)]
        try:
            await asyncio.wait(ends, timeout=_EACH_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in ends:
                each.cancel()

    def news(self) -> dict[str, Any]:
        """The same for all streams, made once a second at most."""
        now = time.monotonic()
        if now - self._made_at >= _EACH_SECONDS * 0.9:
            self._made_at = now
            self._news = self._make(now)
        return self._news

    def _make(self, now: float) -> dict[str, Any]:
        storage = self._storage
        if now - self._troubled_at >= _TROUBLES_SECONDS:
            self._troubled_at, self._troubles = now, len(troubles(storage))
        found, progress = storage.stats(), storage.progress
        upload, download = self._measure(now)
        running = self._running(now)
        return {
            "texts": {
                "total": words.count(found.total_segments),
                "hot": words.count(found.hot_segments),
                "warm": words.count(found.warm_segments),
                "cold": words.count(found.cold_segments),
                "archived": words.count(found.archived_segments),
                "local_bytes": words.size(found.local_size_bytes),
                "archived_bytes": words.size(found.archived_size_bytes),
                "upload": f"{words.size(upload)}/s",
                "download": f"{words.size(download)}/s",
                "queued": words.count(progress.queued),
                "running": words.count(len(running)),
                "cycle": "running" if storage.is_cycle_running else "idle",
            },
            "problems": self._troubles,
            "transfers": running[:_SHOWN],
            "more": max(0, len(running) - _SHOWN),
            "actions": {str(action.number): action.state for action in self._actions.recent()},
        }

    def _measure(self, now: float) -> tuple[float, float]:
        metrics = self._storage.metrics
        moved = now, value_of(metrics.uploaded), value_of(metrics.downloaded)
        if self._moved is not None and now - self._moved[0] < 10 * _EACH_SECONDS:
            for at in (0, 1):
                rate = (moved[at + 1] - self._moved[at + 1]) / (now - self._moved[0])
                self._rates[at] += _SMOOTH * (rate - self._rates[at])
                # What is left of a transfer that ended is no rate.
                self._rates[at] = self._rates[at] if self._rates[at] >= 1 else 0.0
        self._moved = moved
        return self._rates[0], self._rates[1]

    def _running(self, now: float) -> list[dict[str, Any]]:
        """Each transfer with its speed by what passed since the last look, smoothed."""
        rows, done = [], {}
        for each in self._storage.transfers():
            key = each.verb, each.segment_path, each.since
            before = self._done.get(key)
            age = max(time.time() - each.since, 0.001)
            rate = each.done / age
            if before is not None and now > before[0]:
                rate = before[2] + _SMOOTH * ((each.done - before[1]) / (now - before[0]) - before[2])
            done[key] = now, each.done, rate
            size = max(each.size, each.done)
            rows.append(
                {
                    "verb": each.verb,
                    "path": each.segment_path,
                    "done": each.done,
                    "size": size,
                    "text": f"{words.size(each.done)} of {words.size(size)}" if size else "",
                    "rate": f"{words.size(rate)}/s" if rate >= 1 else "",
                    "left": f"{words.short((size - each.done) / rate)} left" if rate >= 1 and size > each.done else "",
                    "seconds": words.short(age),
                }
            )
        self._done = done
        return rows
