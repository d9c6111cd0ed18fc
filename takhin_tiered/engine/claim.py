"""One writer for a bucket prefix: an owner record in the store, renewed while its owner lives.

A record is taken over when its owner said goodbye, when it is this very data directory's (the lock on
it says that no other process runs), when its process is known to be dead, or when it was not renewed
for `STALE_AFTER` seconds.
"""

from __future__ import annotations

import json
import os
import socket
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from takhin_tiered import logs
from takhin_tiered.codec.checksums import bytes_source, checksum_of
from takhin_tiered.engine.context import Engine
from takhin_tiered.errors import HeldElsewhere, ObjectExists, ObjectMissing, StoreError
from takhin_tiered.store.base import OWNER_KEY

KEY = OWNER_KEY
RENEW_EVERY = 30.0
STALE_AFTER = 300.0


@dataclass(frozen=True, slots=True)
class Owner:
    """Who archives under a prefix. ``machine`` is empty where process ids mean nothing to others."""

    id: str
    host: str
    pid: int
    machine: str
    data_dir: str
    renewed_at: float

    @property
    def words(self) -> str:
        return f"process {self.pid} on {self.host}, for {self.data_dir}"


def describe_self(identifier: str, data_dir: str) -> Owner:
    return Owner(identifier, socket.gethostname(), os.getpid(), _machine(), data_dir, 0.0)


async def claim(engine: Engine, me: Owner) -> None:
    """Become the owner of the prefix, or raise `HeldElsewhere`, which names the one that is."""
    mine = replace(me, renewed_at=engine.clock())
    try:
        await _write(engine, mine, if_absent=True)
        return
    except ObjectExists:
        found = await _read(engine)
    if found is not None and not _may_take_over(found, mine):
        raise HeldElsewhere(
            f"{engine.store.address} is held by {found.words}",
            key=KEY,
            hint=f"Give each data directory its own prefix. If that process is gone for good, its claim ends "
            f"{max(0.0, STALE_AFTER - (mine.renewed_at - found.renewed_at)):.0f} s from now",
        )
    if found is not None and found.id != mine.id:
        logs.logger().warning("took over the prefix of another owner", owner=found.words, store=engine.store.address)
    await _write(engine, mine, if_absent=False)


async def renew(engine: Engine, me: Owner) -> None:
    """Say that the owner lives; `HeldElsewhere` if somebody took the prefix over."""
    found = await _read(engine)
    if found is not None and found.id != me.id:
        raise HeldElsewhere(f"{engine.store.address} was taken over by {found.words}", key=KEY)
    await _write(engine, replace(me, renewed_at=engine.clock()), if_absent=False)


async def release(engine: Engine, me: Owner) -> None:
    """Give the prefix back. Best effort: a claim that cannot be given back runs out."""
    with suppress(StoreError):
        found = await _read(engine)
        if found is not None and found.id == me.id:
            await engine.store.delete([KEY])


async def _read(engine: Engine) -> Owner | None:
    """The owner on record; None where there is none, or what stands there is no record."""
    try:
        data = await engine.store.read(KEY)
    except ObjectMissing:
        return None
    try:
        return Owner(**json.loads(data))
    except (ValueError, TypeError):
        return None


async def _write(engine: Engine, owner: Owner, *, if_absent: bool) -> None:
    data = json.dumps(asdict(owner)).encode()
    checksum = checksum_of(bytes_source(data), len(data))
    await engine.store.put(KEY, bytes_source(data), size=len(data), checksum=checksum, if_absent=if_absent)


def _may_take_over(found: Owner, mine: Owner) -> bool:
    if found.id == mine.id or mine.renewed_at - found.renewed_at > STALE_AFTER:
        return True
    return bool(found.machine) and found.machine == mine.machine and not _is_alive(found.pid)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _machine() -> str:
    """This boot of this machine, and the namespace in which its process ids hold; empty where unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""
