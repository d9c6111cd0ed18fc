"""The tokens of the API: whoever has one may do everything, or only look.

``storage.tiered.api.token`` is one of an administrator. A file has more: lines ``admin TOKEN`` or ``read TOKEN``, each
with a name behind it for the log if wanted.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, cast, get_args

from takhin_tiered.config import Settings
from takhin_tiered.config_listeners import SHORTEST_TOKEN, TOKENS_FILE
from takhin_tiered.errors import ConfigError
from takhin_tiered.guesses import Guesses
from takhin_tiered.private_file import read_private

Role = Literal["admin", "read"]
_FORM = "A line is: admin TOKEN, or: read TOKEN, and a name without spaces behind it if wanted"


@dataclass(frozen=True, slots=True)
class Token:
    """``digest`` is of the token: of equal length whatever the token, so that a comparison tells nothing of it."""

    role: Role
    name: str
    digest: bytes = field(repr=False)


class _Line(NamedTuple):
    role: Role
    name: str
    token: str


class Tokens:
    """Those in effect. A reload replaces them."""

    def __init__(self, settings: Settings) -> None:
        """Blocking. `ConfigError` names the file and the line, never a token."""
        self.known = load_tokens(settings)
        self._guesses = Guesses()

    @property
    def is_needed(self) -> bool:
        """Without any, whoever reaches the API may do everything: it listens on loopback alone."""
        return bool(self.known)

    def find(self, given: str) -> Token | None:
        """Compares with each, in constant time."""
        return self.with_digest(_digest(given))

    def with_digest(self, digest: bytes) -> Token | None:
        """As `find`, by what is kept of a token that was given before."""
        found = [token for token in self.known if hmac.compare_digest(token.digest, digest)]
        return found[0] if found else None

    def admit(self, given: str, client: str) -> Token | None:
        """Find one that came from a client; each that is not known counts. `TooManyGuesses`."""
        if not given:
            return None
        self._guesses.require(client)
        token = self.find(given)
        if token is None:
            self._guesses.note(client)
        return token


def load_tokens(settings: Settings) -> tuple[Token, ...]:
    """From the settings and from the file that they name; blocking."""
    own, path = settings.api_token.get_secret_value(), settings.api_tokens_file
    tokens = [Token("admin", "api.token", _digest(own))] if own else []
    lines = [] if path is None else _read(path)
    tokens += [Token(line.role, line.name, _digest(line.token)) for line in lines]
    digests = [token.digest for token in tokens]
    if len(set(digests)) < len(digests):
        raise ConfigError(
            f"{TOKENS_FILE}: a token occurs twice in {path}, or is storage.tiered.api.token too",
            hint="Give each its own token: openssl rand -hex 32",
        )
    return tuple(tokens)


def token_of_commands(settings: Settings) -> str:
    """What commands on this machine give: ``api.token``, else the first of an administrator in the file; blocking.

    Empty where neither is there, or the file is not theirs to read.
    """
    if (own := settings.api_token.get_secret_value()) or settings.api_tokens_file is None:
        return own
    with suppress(ConfigError):
        return next((line.token for line in _read(settings.api_tokens_file) if line.role == "admin"), "")
    return ""


def _read(path: Path) -> list[_Line]:
    tokens = list(_parsed(read_private(path, TOKENS_FILE, "tokens"), path))
    if not tokens:
        raise ConfigError(f"{TOKENS_FILE}: {path} has no token", hint=_FORM)
    return tokens


def _parsed(text: str, path: Path) -> Iterator[_Line]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        where = f"{TOKENS_FILE}: line {number} of {path}"
        role, *rest = line.split()
        if role not in get_args(Role) or not 1 <= len(rest) <= 2:
            raise ConfigError(f"{where} is not a role and a token", hint=_FORM)
        if len(rest[0]) < SHORTEST_TOKEN or not rest[0].isascii():
            raise ConfigError(
                f"{where} has a token of less than {SHORTEST_TOKEN} characters, or other characters than ASCII",
                hint="openssl rand -hex 32 makes a good one",
            )
        yield _Line(cast("Role", role), rest[1] if len(rest) > 1 else f"line {number}", rest[0])


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
