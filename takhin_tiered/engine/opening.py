"""Before anything is looked at: open the data directories, take their lock, know whether they are Kafka's."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path

from takhin_tiered.catalog.journal import Journal
from takhin_tiered.config import Settings
from takhin_tiered.disk.files import DataDirs
from takhin_tiered.disk.lock import DataDirLock
from takhin_tiered.engine.brokers import require_safe_mode, stands_in_kafka
from takhin_tiered.errors import ConfigError, DiskFull
from takhin_tiered.users import owner_hint

SUPERSEDED = "superseded"
KAFKA = "kafka"
"""In the journal: that the data directory is Kafka's, for the day on which an empty disk stands in its place."""


def open_data_dirs(settings: Settings) -> DataDirs:
    try:
        return DataDirs.open(settings.data_dirs)
    except PermissionError as error:
        path = Path(os.fsdecode(error.filename)) if error.filename else settings.data_dir
        raise ConfigError(
            f"storage.data.dir {path} cannot be opened: {error.strerror}", hint=owner_hint(path)
        ) from error
    except OSError as error:
        raise ConfigError(
            f"storage.data.dir {error.filename} cannot be opened: {error.strerror}",
            hint="It must be the broker's segment directory, and be there before the daemon starts",
        ) from error


def acquire(lock: DataDirLock, settings: Settings) -> None:
    try:
        lock.acquire()
    except OSError as error:
        where = f"the state directory {settings.state_dir} cannot be written: {error.strerror}"
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise DiskFull(where, hint="Make room on its disk, and try again. Nothing is damaged") from error
        hint = "Set storage.tiered.state.dir to a directory that the daemon's user may write to"
        if error.errno in {errno.EACCES, errno.EPERM}:
            hint = f"{owner_hint(settings.state_dir)}. {hint}, if that is not so"
        raise ConfigError(where, hint=hint) from error


async def find_kafka(settings: Settings, data_dir: DataDirs, journal: Journal | None, *, read_only: bool) -> bool:
    """Whether the data directory is Kafka's, or was. Unless ``read_only``, `ConfigError` in a mode that is not safe."""
    was_kafka = journal is not None and await journal.get_meta(KAFKA) == "yes"
    kafka = await asyncio.to_thread(stands_in_kafka, data_dir) or was_kafka
    if not read_only:
        await asyncio.to_thread(require_safe_mode, settings, data_dir, kafka=kafka)
        if journal is not None and kafka:
            await journal.set_meta(KAFKA, "yes")
    return kafka
