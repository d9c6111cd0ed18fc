"""SASL on the server's side: PLAIN (RFC 4616), SCRAM-SHA-256 and SCRAM-SHA-512 (RFC 5802, RFC 7677). No I/O.

Who guesses learns nothing of who exists: for an unknown user the exchange goes on to the end with a made-up verifier.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
from collections.abc import Callable
from typing import NamedTuple

from takhin_tiered.kafka.credentials import SCRAM, Users, Verifier
from takhin_tiered.kafka.login import AuthenticationFailed

PLAIN = "PLAIN"
_LARGEST_MESSAGE = 8192
_WRONG = "the user or the password is wrong"
_FIRST = re.compile(
    r"(?P<header>[ny],(?:a=(?P<authorized>[^,]*))?,)"
    r"(?P<bare>n=(?P<user>[^,]+),r=(?P<nonce>[!-+\--~]+)(?P<extensions>(?:,[A-Za-z][^,]*)*))"
)
_FINAL = re.compile(
    r"(?P<bare>c=(?P<binding>[^,]+),r=(?P<nonce>[!-+\--~]+)(?:,[A-Za-z]=[^,]*)*),p=(?P<proof>[A-Za-z0-9+/=]+)"
)


class Step(NamedTuple):
    """``user`` is known once it is ``done``."""

    answer: bytes
    done: bool = False
    user: str = ""


class Authenticator:
    """Who the users are; replaced as a whole when the file is read again."""

    def __init__(self, users: Users) -> None:
        self._users = users
        # What the made-up verifiers look like: as that of some user.
        self._examples = {PLAIN: [next(iter(verifiers.values())) for verifiers in users.values()]}
        for mechanism in SCRAM:
            self._examples[mechanism] = [each[mechanism] for each in users.values() if mechanism in each]
        self._secret = os.urandom(32)

    @property
    def mechanisms(self) -> tuple[str, ...]:
        return tuple(mechanism for mechanism, examples in self._examples.items() if examples)

    def begin(self, mechanism: str) -> PlainExchange | ScramExchange:
        if mechanism not in self.mechanisms:
            raise AuthenticationFailed(f"the mechanisms here are {', '.join(self.mechanisms)}")

        def find(user: str) -> tuple[Verifier, bool]:
            return self._find(user, mechanism)

        if mechanism == PLAIN:
            return PlainExchange(find)
        return ScramExchange(find, SCRAM[mechanism], base64.b64encode(os.urandom(24)).decode())

    def _find(self, user: str, mechanism: str) -> tuple[Verifier, bool]:
        """The verifier, and whether it is a user's; the same one for each try by an unknown user."""
        examples, drawn = self._examples[mechanism], hashlib.shake_256(self._secret + user.encode())
        example = examples[int.from_bytes(drawn.digest(8), "big") % len(examples)]
        verifiers = self._users.get(user, {})
        found = next(iter(verifiers.values()), None) if mechanism == PLAIN else verifiers.get(mechanism)
        if found is not None:
            return found, True
        size, salt = len(example.stored_key), drawn.digest(8 + len(example.salt))[8:]
        return Verifier(example.hash, salt, example.iterations, os.urandom(size), os.urandom(size)), False


class PlainExchange:
    """``find`` gives the verifier of a user, and whether there is such a user."""

    def __init__(self, find: Callable[[str], tuple[Verifier, bool]]) -> None:
        self._find = find

    def step(self, data: bytes) -> Step:
        authorized, *rest = _text(data).split("\0")
        if len(rest) != 2 or not all(rest):
            raise AuthenticationFailed("not a message of PLAIN")
        user, password = rest
        verifier, is_known = self._find(user)
        is_right = verifier.is_of(password)
        if not (is_known and is_right) or authorized not in {"", user}:
            raise AuthenticationFailed(_WRONG)
        return Step(b"", done=True, user=user)


class ScramExchange:
    """``nonce``: our part of it."""

    def __init__(self, find: Callable[[str], tuple[Verifier, bool]], hash_name: str, nonce: str) -> None:
        self._find, self._hash, self._nonce = find, hash_name, nonce
        self._theirs = ""
        self._next: Callable[[str], Step] | None = self._first

    def step(self, data: bytes) -> Step:
        step, self._next = self._next, None
        if step is None:
            raise AuthenticationFailed("the authentication is over")
        return step(_text(data))

    def _first(self, text: str) -> Step:
        found = _FIRST.fullmatch(text)
        if found is None:
            raise AuthenticationFailed("not a first message of SCRAM without channel binding")
        if "tokenauth=true" in found["extensions"]:
            raise AuthenticationFailed("there are no delegation tokens here")
        user = _unescaped(found["user"])
        authorized = found["authorized"]
        if authorized and _unescaped(authorized) != user:
            raise AuthenticationFailed("a user cannot act as another one")
        self._user, (self._verifier, self._is_known) = user, self._find(user)
        self._header = base64.b64encode(found["header"].encode()).decode()
        self._theirs, self._nonce = found["nonce"], found["nonce"] + self._nonce
        salt = base64.b64encode(self._verifier.salt).decode()
        answer = f"r={self._nonce},s={salt},i={self._verifier.iterations}"
        self._said = f"{found['bare']},{answer}"
        self._next = self._final
        return Step(answer.encode())

    def _final(self, text: str) -> Step:
        found = _FINAL.fullmatch(text)
        if found is None:
            raise AuthenticationFailed("not a final message of SCRAM")
        # librdkafka before 2.6.1 writes its own part once more before it. The proof is over what it wrote.
        nonce = found["nonce"] if len(found["nonce"]) == len(self._nonce) else found["nonce"].removeprefix(self._theirs)
        if found["binding"] != self._header or not hmac.compare_digest(nonce, self._nonce):
            raise AuthenticationFailed("the final message of SCRAM does not belong to the first")
        said = f"{self._said},{found['bare']}".encode()
        if not (self._proves(found["proof"], said) and self._is_known):
            raise AuthenticationFailed(_WRONG)
        signature = hmac.digest(self._verifier.server_key, said, self._hash)
        return Step(b"v=" + base64.b64encode(signature), done=True, user=self._user)

    def _proves(self, text: str, said: bytes) -> bool:
        try:
            proof = base64.b64decode(text, validate=True)
        except binascii.Error:
            return False
        stored_key = self._verifier.stored_key
        signature = hmac.digest(stored_key, said, self._hash)
        if len(proof) != len(signature):
            return False
        client_key = bytes(left ^ right for left, right in zip(proof, signature, strict=True))
        return hmac.compare_digest(hashlib.new(self._hash, client_key).digest(), stored_key)


def _text(data: bytes) -> str:
    if len(data) > _LARGEST_MESSAGE:
        raise AuthenticationFailed("the message is too long")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise AuthenticationFailed("the message is not in UTF-8") from None


def _unescaped(name: str) -> str:
    """A comma is written ``=2C``, and an equals sign ``=3D``."""
    if re.search("=(?!2C|3D)", name):
        raise AuthenticationFailed("a user name is not escaped as SCRAM asks for")
    return name.replace("=2C", ",").replace("=3D", "=")
