"""The file of users who may connect, and what proves their passwords.

Each line is ``user:password`` or ``user:SCRAM-SHA-256:salt:iterations:stored key:server key`` (or SCRAM-SHA-512), the
binary values in base64, as Kafka keeps them. Passwords are compared as UTF-8, without SASLprep, as Kafka does.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from takhin_tiered.errors import ConfigError
from takhin_tiered.private_file import read_private

SETTING = "storage.tiered.kafka.sasl.users.file"
SCRAM = {"SCRAM-SHA-256": "sha256", "SCRAM-SHA-512": "sha512"}
"""The hash of each mechanism."""
LEAST_ITERATIONS, MOST_ITERATIONS = 4096, 1_000_000
"""RFC 7677's least; the most that clients take."""
_FORM = "A line is user:password, or user:SCRAM-SHA-256:salt:iterations:stored key:server key"


@dataclass(frozen=True, slots=True)
class Verifier:
    """What proves a password without being one. Source: RFC 5802, section 3."""

    hash: str
    salt: bytes = field(repr=False)
    iterations: int
    stored_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)

    @classmethod
    def derive(cls, password: str, hash_name: str, salt: bytes, iterations: int) -> Verifier:
        """Takes milliseconds."""
        salted = hashlib.pbkdf2_hmac(hash_name, password.encode(), salt, iterations)
        client_key = hmac.digest(salted, b"Client Key", hash_name)
        stored_key = hashlib.new(hash_name, client_key).digest()
        return cls(hash_name, salt, iterations, stored_key, hmac.digest(salted, b"Server Key", hash_name))

    def is_of(self, password: str) -> bool:
        """Takes milliseconds, whatever the answer."""
        derived = self.derive(password, self.hash, self.salt, self.iterations)
        return hmac.compare_digest(derived.stored_key, self.stored_key)


Users = Mapping[str, Mapping[str, Verifier]]
"""Verifiers by user and mechanism."""


def load_users(path: Path) -> Users:
    """Blocking. `ConfigError` names the file and the line, never what stands in it."""
    users: dict[str, dict[str, Verifier]] = {}
    for number, line in enumerate(read_private(path, SETTING, "passwords").replace("\r\n", "\n").split("\n"), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            where = f"{SETTING}: line {number} of {path}"
            user, verifiers = _parse(line, where)
            known = users.setdefault(user, {})
            if known.keys() & verifiers.keys():
                raise ConfigError(f"{where} repeats a user", hint="Each user has one line, or one for each mechanism")
            known |= verifiers
    if not users:
        raise ConfigError(f"{SETTING}: {path} has no user", hint=_FORM)
    return users


def scram_line(user: str, password: str, mechanism: str = "SCRAM-SHA-256", iterations: int = 8192) -> str:
    """A line for the file from which nobody learns the password."""
    made = Verifier.derive(password, SCRAM[mechanism], os.urandom(16), iterations)
    salt, stored, server = (base64.b64encode(each).decode() for each in (made.salt, made.stored_key, made.server_key))
    return f"{user}:{mechanism}:{salt}:{iterations}:{stored}:{server}"


def _parse(line: str, where: str) -> tuple[str, dict[str, Verifier]]:
    user, colon, rest = line.partition(":")
    if not user or not colon or not rest:
        raise ConfigError(f"{where} has no user or no password", hint=_FORM)
    if user != user.strip() or rest != rest.strip() or "\0" in line:
        raise ConfigError(f"{where} has spaces around the user or the password", hint=f"Remove them. {_FORM}")
    mechanism, *values = rest.split(":")
    if mechanism in SCRAM:
        return user, {mechanism: _parse_verifier(SCRAM[mechanism], values, where)}
    if mechanism.startswith("SCRAM-") and values:
        raise ConfigError(f"{where} is for another mechanism than {' and '.join(SCRAM)}")
    return user, {name: Verifier.derive(rest, SCRAM[name], os.urandom(16), LEAST_ITERATIONS) for name in SCRAM}


def _parse_verifier(hash_name: str, values: list[str], where: str) -> Verifier:
    if len(values) != 4:
        raise ConfigError(f"{where} has {len(values)} values after the mechanism, not 4", hint=_FORM)
    salt, stored_key, server_key = (_decoded(values[index], where) for index in (0, 2, 3))
    size = hashlib.new(hash_name).digest_size
    if not salt or len(stored_key) != size or len(server_key) != size:
        raise ConfigError(f"{where} has no salt, or keys that are not of {size} bytes", hint=_FORM)
    iterations = int(values[1]) if values[1].isascii() and values[1].isdigit() and len(values[1]) < 10 else 0
    if not LEAST_ITERATIONS <= iterations <= MOST_ITERATIONS:
        raise ConfigError(f"{where} has iterations that are not from {LEAST_ITERATIONS} to {MOST_ITERATIONS}")
    return Verifier(hash_name, salt, iterations, stored_key, server_key)


def _decoded(text: str, where: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ConfigError(f"{where} has a value that is not in base64", hint=_FORM) from None
