"""What an S3 server can do: it is asked once, with requests that change nothing of worth, and that is remembered.

There are servers that store the checksum which an upload claims and look at no byte, some that refuse the header,
some that take a conditional write for an ordinary one. What one cannot is asked again after a day, as servers are
renewed; and at once where it behaves otherwise, or calls itself otherwise. What is remembered counts for the very
address it was learned at. Source: Amazon S3 API reference, PutObject.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any, Protocol
from uuid import uuid4

from takhin_tiered import logs
from takhin_tiered.codec.checksums import Checksum, bytes_source, checksum_of
from takhin_tiered.errors import (
    ObjectCorrupt,
    ObjectExists,
    StoreDenied,
    StoreError,
    TakhinError,
)
from takhin_tiered.store.base import PROBE_KEY, Capabilities, Check, Conflict, Notes, NotSupported
from takhin_tiered.store.s3.calls import Calls
from takhin_tiered.store.s3.sending import Parcel

_META = "store_capabilities"
_ASK_AGAIN = 24 * 3600.0
_DENIED_FOR = 60.0
_TRIES = 4
_SMALL = 1 << 20
_WEAKNESS = (Check.SHA256, Check.MD5, Check.NOTHING)


class Put(Protocol):
    """Send an object with what the server is to check it by. `NOTHING`: with no checksum at all."""

    async def __call__(self, parcel: Parcel, check: Check, *, if_absent: bool) -> Any: ...


class Send(Protocol):
    async def __call__(self, *, if_absent: bool) -> Any: ...


class Server:
    """``now`` says what is known; `note` changes it."""

    def __init__(
        self,
        calls: Calls,
        notes: Notes | None,
        put: Put,
        delete: Callable[[Sequence[str]], Awaitable[None]],
        is_there: Callable[[str], Awaitable[bool]],
    ) -> None:
        self._calls, self._notes = calls, notes
        self._put, self._delete, self._is_there = put, delete, is_there
        self._asking, self._recalling = asyncio.Lock(), asyncio.Lock()
        self._recalled = False
        self._saving: set[asyncio.Task[None]] = set()
        self._until = self._denied_until = 0.0
        # What was found, by what the server calls itself: there may be several behind one address.
        self._found: dict[str | None, Check] = {}
        self._known = Capabilities()
        calls.requests.note_expect = lambda answered: self.note(expect=answered)

    async def now(self) -> Capabilities:
        """What is known, and not too old; what was remembered at first."""
        async with self._recalling:
            await self._recall()
        if time.monotonic() >= self._until:
            self._begin_anew()
        return self._known

    def note(self, **found: Any) -> None:
        """Something was found out, by asking or by the way."""
        changed = replace(self._known, **found)
        if changed == self._known:
            return
        self._known = changed
        if self._notes is not None:
            task = asyncio.ensure_future(self._save(self._notes))
            self._saving.add(task)
            task.add_done_callback(self._saving.discard)

    async def close(self) -> None:
        """What was found out is written down."""
        await asyncio.gather(*self._saving)

    async def checks(self) -> Check:
        """What uploads are compared with. Asked with bytes that are not those of their checksum."""
        if (known := await self._current()) is not None:
            return known
        async with self._asking:
            if (known := await self._current()) is not None:
                return known
            if time.monotonic() < self._denied_until:
                return Check.NOTHING
            try:
                check, headers = await self._find_check()
            except StoreDenied:
                # Who may only read cannot ask, and so believes nothing.
                self._denied_until = time.monotonic() + _DENIED_FOR
                return Check.NOTHING
            self._found[self._calls.requests.server] = check
            check = max(self._found.values(), key=_WEAKNESS.index)
            self.note(checks=check, checksum_headers=headers)
            return check

    def doubt(self) -> None:
        """It refuses what it was known to take: it is asked anew."""
        self._found.clear()
        self.note(checks=None, checksum_headers=None)

    async def put_if_absent(self, parcel: Parcel, send: Send) -> Any:
        """Let ``send`` store an object where there is none; `ObjectExists` where there is one.

        On a server that does not refuse a second write there is a moment between the look and the write.
        """
        for left in reversed(range(_TRIES)):
            try:
                return await self._put_if_absent(parcel, send)
            except Conflict:
                # Some answer so where there is an object; else another request came between, and both were refused.
                if await self._is_there(parcel.key):
                    raise ObjectExists("there is an object already", key=parcel.key) from None
                if not left and await self._conflicts_alone():
                    self.note(conditional_writes=False)
                    return await send(if_absent=False)
                if not left:
                    raise
                await asyncio.sleep(0.2 * (_TRIES - left))
        raise AssertionError("the last try returns or raises")

    async def find_all(self) -> Capabilities:
        """What was not needed yet is asked now, with an object of one byte, which is taken away again."""
        await self.checks()
        if self._known.conditional_writes is None or self._known.batch_delete is None:
            with suppress(StoreDenied):
                await self._find_conditional()
        return self._known

    async def _find_conditional(self) -> None:
        # A key of its own: others ask at the same moment, and keys that may not delete leave their probe.
        probe, check = _probe(f"{PROBE_KEY}-{uuid4().hex}"), await self.checks()

        async def send(*, if_absent: bool) -> Any:
            return await self._put(probe, check, if_absent=if_absent)

        with suppress(ObjectExists):
            await self.put_if_absent(probe, send)
        # One that was never there with it: a single one is not deleted in a batch.
        await self._delete([probe.key, f"{probe.key}-0"])

    async def _put_if_absent(self, parcel: Parcel, send: Send) -> Any:
        known = await self.now()
        if not known.conditional_writes and await self._is_there(parcel.key):
            raise ObjectExists("there is an object already", key=parcel.key)
        if self._known.conditional_writes is False:
            return await send(if_absent=False)
        try:
            answer = await send(if_absent=True)
        except ObjectExists:
            self.note(conditional_writes=True)
            raise
        except NotSupported:
            if self._known.conditional_writes and await self._is_there(parcel.key):
                raise ObjectExists("there is an object already", key=parcel.key) from None
            answer = await send(if_absent=False)
            self.note(conditional_writes=False)
            return answer
        if self._known.conditional_writes is None and parcel.size <= _SMALL:
            await self._find_whether_refused(send)
        return answer

    async def _find_whether_refused(self, send: Send) -> None:
        """The very write that was just done, once more: nothing is changed by it where it is not refused."""
        try:
            await send(if_absent=True)
        except (ObjectExists, Conflict):
            self.note(conditional_writes=True)
        except StoreError:
            return
        if self._known.conditional_writes is None:
            # Another process may have removed the object in between.
            refuses = await self._refuses_alone()
            if self._known.conditional_writes is None and refuses is not None:
                self.note(conditional_writes=refuses)
                if not refuses:
                    self._warn("takes conditional writes for ordinary ones")

    async def _refuses_alone(self) -> bool | None:
        """Whether it refuses a second write to a key that nobody else knows; None where it does not answer."""
        probe, check = _probe(f"{PROBE_KEY}-{uuid4().hex}"), await self.checks()
        try:
            for _ in range(2):
                await self._put(probe, check, if_absent=True)
        except (ObjectExists, Conflict):
            return True
        except StoreError:
            return None
        finally:
            with suppress(StoreError):
                await self._delete([probe.key])
        return False

    async def _conflicts_alone(self) -> bool:
        """Whether it speaks of a conflict even where nobody else can write, and nothing stands."""
        probe = _probe(f"{PROBE_KEY}-{time.monotonic_ns():x}")
        try:
            await self._put(probe, await self.checks(), if_absent=True)
        except Conflict:
            return True
        with suppress(StoreError):
            await self._delete([probe.key])
        return False

    async def _find_check(self) -> tuple[Check, bool]:
        """What it compares, and whether it takes the header for it."""
        right, wrong = (checksum_of(bytes_source(byte), 1) for byte in (b"?", b"!"))
        asked = self._calls.demands.checksum
        headers: bool | None = None
        if asked == Check.SHA256:
            headers = await self._accepts(wrong, Check.SHA256)
            if headers is None:
                return Check.SHA256, True
        md5 = await self._accepts(replace(right, md5=wrong.md5), Check.MD5) if asked != "none" else True
        if md5 is False:
            # Neither checksum will do: what is wrong with the request itself is raised.
            await self._put(_probe(PROBE_KEY), Check.NOTHING, if_absent=False)
        check = Check.MD5 if md5 is None else Check.NOTHING
        with suppress(StoreError):
            # Keys that may not delete leave one byte there.
            await self._delete([PROBE_KEY])
        if asked == Check.SHA256 and headers is False:
            self._warn("refuses checksum headers: none is sent")
        self._warn(
            "compares uploads with their MD5 only" if check is Check.MD5 else "checks no upload: each is read back"
        )
        return check, bool(headers)

    async def _accepts(self, checksum: Checksum, check: Check) -> bool | None:
        """Whether an upload with a wrong checksum is taken; None where it is refused for being wrong."""
        try:
            await self._put(replace(_probe(PROBE_KEY), checksum=checksum), check, if_absent=False)
        except ObjectCorrupt:
            return None
        except NotSupported:
            return False
        except StoreDenied:
            # A proxy that takes the header away spoils the signature.
            if check is not Check.SHA256:
                raise
            return False
        return True

    async def _current(self) -> Check | None:
        known = await self.now()
        return known.checks if self._calls.requests.server in self._found else None

    def _begin_anew(self) -> None:
        """Ask again what it checks, and what it could not do."""
        kept: dict[str, Any] = {name: True for name, value in asdict(self._known).items() if value is True}
        self._known = Capabilities(**kept)
        self._found.clear()
        self._until = time.monotonic() + _ASK_AGAIN
        self._calls.requests.expects = True

    async def _recall(self) -> None:
        """Take over what was remembered, if it is of this very place, young, and the server still calls itself so."""
        if self._recalled or self._notes is None:
            return
        with suppress(TakhinError, ValueError, LookupError, TypeError):
            found = json.loads(await self._notes.get_meta(_META) or "{}")
            age = time.time() - found["asked"]
            if found["identity"] == await self._calls.identity() and 0 <= age < _ASK_AGAIN:
                if self._calls.requests.server is None:
                    await self._is_there(PROBE_KEY)
                if found["server"] == self._calls.requests.server:
                    known = Capabilities(**found["known"])
                    if known.checks:
                        self._found[found["server"]] = check = Check(known.checks)
                        known = replace(known, checks=check)
                    self._known, self._until = known, time.monotonic() + _ASK_AGAIN - age
                    self._calls.requests.expects = known.expect is not False
        self._recalled = True

    async def _save(self, notes: Notes) -> None:
        """What could not be written down is only asked once more after the next start."""
        with suppress(TakhinError):
            found = {
                "identity": await self._calls.identity(),
                "server": self._calls.requests.server,
                "asked": time.time() + self._until - time.monotonic() - _ASK_AGAIN,
                "known": asdict(self._known),
            }
            await notes.set_meta(_META, json.dumps(found))

    def _warn(self, words: str) -> None:
        logs.logger().warning(f"the store {words}", store=self._calls.address)


def _probe(key: str) -> Parcel:
    body = bytes_source(b"?")
    return Parcel(key, body, 1, checksum_of(body, 1))
