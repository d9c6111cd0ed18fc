"""Checks of the store's permissions and of the disks, by trial."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from takhin_tiered.catalog.catalog import Catalog
from takhin_tiered.catalog.journal import open_journal
from takhin_tiered.cli.findings import Finding, Level
from takhin_tiered.cli.output import size
from takhin_tiered.codec.checksums import bytes_source, checksum_of
from takhin_tiered.config import Settings
from takhin_tiered.disk.files import DataDir
from takhin_tiered.disk.kafka import is_broker_running, is_kafka
from takhin_tiered.errors import CatalogError, StoreChanged, StoreDenied, StoreError
from takhin_tiered.segments.clock import span
from takhin_tiered.segments.names import parse_partition
from takhin_tiered.store import ObjectStore
from takhin_tiered.store.base import PROBE_KEY
from takhin_tiered.users import name_of, owner_hint
from takhin_tiered.vault.identity import Identity

KEY = f"{PROBE_KEY}.doctor"
_CONTENT = b"takhin-tiered checked its write permission with this object. It can be deleted."
_PERMISSIONS = {"list": "s3:ListBucket", "put": "s3:PutObject", "get": "s3:GetObject", "delete": "s3:DeleteObject"}
# The store tells its time in whole seconds, and a request takes time.
_CLOCKS_DIFFER = 5.0
_CLOCKS_FAIL = 300.0
_LITTLE = 0.1
_STATE_BYTES = 64 << 20


async def probe_store(settings: Settings, store: ObjectStore) -> AsyncIterator[Finding]:
    """List, put, get and delete a probe object. Each failure says what is missing.

    Nothing is written to a store that is not the known one, such as a mount point without its mount.
    """
    try:
        async with open_journal(settings.state_dir, read_only=True) as journal:
            await Identity(store, journal, Catalog(None), "", may_write=False).judge()
        await store.check()
    except StoreChanged as error:
        yield Finding("FAILED", "store", error.message, error.hint)
        return
    except StoreError as error:
        yield _failed("list", store, error)
        return
    except CatalogError as error:
        # Another check reports the catalog itself. Here it means that the store cannot be recognised.
        yield Finding("warning", "store", "cannot tell whether it is the known store: no catalog to read", error.hint)
        return
    yield Finding("ok", "store", f"{store.address} answers and can be listed")
    checksum = checksum_of(bytes_source(_CONTENT), len(_CONTENT))
    before = time.time()
    try:
        await store.put(KEY, bytes_source(_CONTENT), size=len(_CONTENT), checksum=checksum)
    except StoreError as error:
        yield _failed("put", store, error)
        return
    after = time.time()
    try:
        same = await store.read(KEY) == _CONTENT
        info = await store.head(KEY)
    except StoreError as error:
        yield _failed("get", store, error)
        info, same = None, True
    if not same:
        yield Finding("FAILED", "store", f"{KEY} came back with other bytes", "Do not use this store")
    try:
        await store.delete([KEY])
        gone = await store.head(KEY) is None
    except StoreError as error:
        yield _failed("delete", store, error)
    else:
        if not gone:
            yield Finding(
                "warning", "store", f"{KEY} is still there after its deletion",
                "Object lock or the server keeps it. Superseded and expired objects will stay too, and cost money",
            )  # fmt: skip
        if info is not None:
            yield Finding("ok", "store permissions", "list, put, get and delete are allowed")
    if info is not None:
        yield _clock(info.modified, before, after)


def _failed(verb: str, store: ObjectStore, error: StoreError) -> Finding:
    name = "store" if verb == "list" else "store permissions"
    advice = error.hint
    if isinstance(error, StoreDenied) and store.address.startswith("s3:"):
        advice = f"Check the credentials, and that they allow {_PERMISSIONS[verb]} on this bucket and prefix"
    return Finding("FAILED", name, f"{verb} failed: {error.message}", advice or "Check that the server runs")


def _clock(stored: float, before: float, after: float) -> Finding:
    skew = before - stored if stored < before else stored - after if stored > after else 0.0
    apart = f"{skew:.0f} s" if skew < 7200 else span(skew)
    text = f"{apart} {'ahead of' if stored < before else 'behind'} the store's clock"
    if skew > _CLOCKS_DIFFER:
        level: Level = "FAILED" if skew > _CLOCKS_FAIL else "warning"
        return Finding(level, "clock", f"this machine's clock is {text}", "Set the clock: run an NTP service")
    return Finding("ok", "clock", "it agrees with the store's clock")


def check_data_dirs(settings: Settings) -> Iterator[Finding]:
    """Blocking, like the others here that are not coroutines."""
    for path in settings.data_dirs:
        yield from _check_data_dir(settings, path)


def _check_data_dir(settings: Settings, path: Path) -> Iterator[Finding]:
    name = "data directory"
    try:
        status = path.stat()
        names = os.listdir(path)  # noqa: PTH208 - it tells what may not be read
    except PermissionError as error:
        yield Finding("FAILED", name, f"{path}: {error.strerror}", owner_hint(path))
        return
    except OSError as error:
        yield Finding("FAILED", name, f"{path}: {error.strerror}", "Set storage.data.dir to the broker's segments")
        return
    partitions = [path / each for each in names if parse_partition(each) is not None]
    broker = _broker_on(path)
    text = f"{path}, owner {name_of(status.st_uid)}, {len(partitions)} partition directories; {broker}"
    unreadable = [each for each in partitions if not os.access(each, os.R_OK | os.X_OK)]
    if unreadable:
        yield Finding("FAILED", name, f"{unreadable[0]} is not readable", owner_hint(unreadable[0]))
        return
    moves = settings.enabled and settings.mode(kafka=broker != _NO_KAFKA) == "move"
    readonly = [each for each in (path, *partitions) if not os.access(each, os.W_OK | os.X_OK)]
    if moves and readonly:
        yield Finding(
            "FAILED", name, f"{readonly[0]} is not writable, and mode move unlinks files", owner_hint(readonly[0])
        )
        return
    if not partitions:
        advice = "If the broker has segments, set storage.data.dir to their directory"
        yield Finding("warning", name, text, advice)
        return
    yield Finding("ok", name, text)


_NO_KAFKA = "not Apache Kafka (no meta.properties)"


def _broker_on(path: Path) -> str:
    root = DataDir(path)
    try:
        if not is_kafka(root.fd):
            return _NO_KAFKA
        return "Apache Kafka, " + ("a broker runs on it" if is_broker_running(root.fd) else "no broker runs on it")
    except OSError as error:
        return f"cannot tell whether a broker runs: {error.strerror}"
    finally:
        root.close()


def check_state_dir(settings: Settings) -> Iterator[Finding]:
    name, path = "state directory", settings.state_dir
    nearest = next(each for each in (path, *path.absolute().parents) if os.path.lexists(each))
    if not os.access(nearest, os.W_OK | os.X_OK):
        yield Finding("FAILED", name, f"{path} is not writable by {name_of(os.geteuid())}", owner_hint(nearest))
        return
    free = shutil.disk_usage(nearest).free
    if free < _STATE_BYTES:
        yield Finding("FAILED", name, f"{path}: only {size(free)} free on its disk", "Make room for the catalog there")
        return
    owner = nearest.stat().st_uid
    if nearest == path and owner != os.geteuid():
        yield Finding(
            "warning", name, f"{path} belongs to {name_of(owner)}, and you are {name_of(os.geteuid())}",
            f"Run commands that change something as {name_of(owner)}",
        )  # fmt: skip
        return
    yield Finding(
        "ok", name, f"{path}, {size(free)} free" + ("" if nearest == path else "; the first start creates it")
    )


def check_disk(settings: Settings) -> Iterator[Finding]:
    for path in settings.data_dirs:
        try:
            usage = shutil.disk_usage(path)
        except OSError:
            continue
        text = f"{size(usage.free)} of {size(usage.total)} free at {path}"
        if usage.free < settings.restore_reserve_mb * 1024 * 1024:
            yield Finding(
                "FAILED", "disk", text, "Lower storage.tiered.cold.age.hours to archive more, or enlarge the disk"
            )
        elif usage.free < _LITTLE * usage.total:
            yield Finding("warning", "disk", text, "Archive earlier: lower storage.tiered.cold.age.hours")
        else:
            yield Finding("ok", "disk", text)
