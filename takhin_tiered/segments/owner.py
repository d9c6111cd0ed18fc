"""Who may write under a prefix, as the store has it on record: the owner, and whoever challenges it.

Pure: how a record is read and written, and what it says of another one.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Self

_LONGEST = 64 << 10


@dataclass(frozen=True, slots=True)
class Party:
    """One process that writes, or wants to write, under a prefix.

    ``id`` is its state directory's, and stays; a copied disk has it too. ``nonce`` is of this start alone.
    ``machine`` is the space in which ``pid`` and ``started`` hold (see `takhin_tiered.machine`), ``boot`` the kernel's
    boot on which ``directories`` (device and inode of each data directory) do. Records of earlier releases lack some.
    """

    id: str = ""
    nonce: str = ""
    host: str = ""
    pid: int = 0
    started: int = 0
    machine: str = ""
    boot: str = ""
    directories: tuple[str, ...] = ()
    data_dir: str = ""
    answered: str = ""

    @classmethod
    def parse(cls, data: bytes) -> Self | None:
        """What a record says; None where it is none. Fields of later releases are passed over."""
        try:
            found = json.loads(data[:_LONGEST])
        except (ValueError, RecursionError):
            return None
        if not isinstance(found, dict):
            return None
        known = {field.name: _like(field.default, found[field.name]) for field in fields(cls) if field.name in found}
        if None in known.values() or not 0 <= known.get("pid", 0) < 1 << 31:
            return None
        return cls(**known)

    def dump(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    def answering(self, nonce: str) -> Self:
        """The owner's record, once it has answered the challenge with this nonce."""
        return replace(self, answered=nonce)

    @property
    def description(self) -> str:
        return f"process {self.pid} on {self.host or 'an unknown host'}, for {self.data_dir or 'an unknown directory'}"

    def was_of_same_directory(self, other: Self) -> bool:
        """Whether both have the same directories, on the same boot: then whoever holds the lock on them lives alone."""
        return bool(self.boot and self.directories) and (self.boot, self.directories) == (other.boot, other.directories)


def _like(default: Any, value: Any) -> Any:
    """The value in the type of the field's default; None where it has another one."""
    if isinstance(default, tuple):
        return tuple(map(str, value)) if isinstance(value, list) else None
    return value if type(value) is type(default) else None
