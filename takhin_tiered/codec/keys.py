"""The operator's key file: lines of ``key-id base64-of-32-bytes``. The first one is for new segments."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from takhin_tiered.codec.aesgcm import KEY_SIZE, Key
from takhin_tiered.errors import ConfigError, NoKey

_SETTING = "storage.tiered.encryption.key.file"
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True, slots=True)
class KeyRing:
    """Keys by ID. ``current`` is the ID of the key for new segments, empty if there is none."""

    keys: Mapping[str, Key] = field(default_factory=dict, repr=False)
    current: str = ""

    @classmethod
    def load(cls, path: str) -> KeyRing:
        """Blocking. An empty path is no key at all. `ConfigError` names the file and the line, never a key."""
        if not path:
            return cls()
        try:
            text = Path(path).read_text("ascii")
        except UnicodeDecodeError:
            raise ConfigError(f"{_SETTING}: {path} is not a text file in ASCII") from None
        except OSError as error:
            raise ConfigError(f"{_SETTING}: {path} cannot be read: {error.strerror or error}") from error
        keys: dict[str, Key] = {}
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            identifier, key = _parse(line, f"{_SETTING}: line {number} of {path}")
            if identifier in keys:
                raise ConfigError(f"{_SETTING}: line {number} of {path} repeats the key ID {identifier!r}")
            keys[identifier] = key
        if not keys:
            raise ConfigError(f"{_SETTING}: {path} has no key", hint=_how_to_make_one())
        # Slow to import, so not later in the event loop.
        import cryptography.hazmat.primitives.ciphers.aead  # noqa: F401

        return cls(keys, next(iter(keys)))

    def get(self, key_id: str) -> Key:
        """`NoKey` where there is none of this ID."""
        try:
            return self.keys[key_id]
        except KeyError:
            where = f"has {', '.join(self.keys)}" if self.keys else "is not set"
            raise NoKey(
                f"the data is encrypted with the key {key_id!r}, and {_SETTING} {where}",
                hint="Nothing was read or restored. Add the line of that key to the key file, and reload",
            ) from None


def _parse(line: str, where: str) -> tuple[str, Key]:
    identifier, *rest = line.split()
    if len(rest) != 1 or not _ID.fullmatch(identifier):
        raise ConfigError(f"{where} is not a key ID and a key in base64", hint=_how_to_make_one())
    try:
        secret = base64.b64decode(rest[0], validate=True)
    except binascii.Error:
        secret = b""
    if len(secret) != KEY_SIZE:
        raise ConfigError(f"{where}: the key is not {KEY_SIZE} bytes in base64", hint=_how_to_make_one())
    return identifier, Key(secret)


def _how_to_make_one() -> str:
    return 'A line is made by: echo "$(date +%Y-%m) $(openssl rand -base64 32)"'
