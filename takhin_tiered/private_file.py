"""Files with secrets, which only their owner may open."""

from __future__ import annotations

import os
from pathlib import Path

from takhin_tiered.errors import ConfigError
from takhin_tiered.users import name_of

_LARGEST_FILE = 4 << 20


def read_private(path: Path, setting: str, what: str) -> str:
    """The text of a file that has secrets, ``what`` in the plural; blocking.

    `ConfigError` names the setting and the file, never what stands in it.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            content = file.read(_LARGEST_FILE + 1)
    except OSError as error:
        raise ConfigError(f"{setting}: {path} cannot be read: {error.strerror or error}") from error
    if status.st_mode & 0o077:
        raise ConfigError(
            f"{setting}: {path} has {what}, and others than its owner may open it", hint=f"Run: chmod 600 {path}"
        )
    if status.st_uid not in {0, os.geteuid()}:
        raise ConfigError(
            f"{setting}: {path} belongs to {name_of(status.st_uid)}",
            hint=f"Let it belong to {name_of(os.geteuid())}, as whom this runs",
        )
    if len(content) > _LARGEST_FILE:
        raise ConfigError(f"{setting}: {path} is larger than {_LARGEST_FILE >> 20} MiB")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(f"{setting}: {path} is not a text file in UTF-8") from None
