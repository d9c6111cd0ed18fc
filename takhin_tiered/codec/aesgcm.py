"""AES-256-GCM: chunks under a data key of their own segment, which is wrapped with a key of the operator's key file.

Sealed bytes are a random nonce of 12 bytes, the ciphertext, and the tag of 16 bytes. ``context`` is authenticated, not
stored: sealed bytes can be opened only where they belong. Source: NIST SP 800-38D; `cryptography`, AESGCM.
"""

from __future__ import annotations

import os
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_SIZE = 32
_NONCE_SIZE = 12
_TAG_SIZE = 16
OVERHEAD = _NONCE_SIZE + _TAG_SIZE


class NotAuthentic(Exception):
    """Other bytes, another key, or another context."""


class Key:
    """256 bits. Its methods are safe in threads, and release the interpreter's lock for large data."""

    def __init__(self, secret: bytes) -> None:
        if len(secret) != KEY_SIZE:
            raise ValueError(f"a key has {KEY_SIZE} bytes, not {len(secret)}")
        self._secret = secret

    @classmethod
    def random(cls) -> Key:
        return cls(os.urandom(KEY_SIZE))

    @cached_property
    def _cipher(self) -> AESGCM:
        # Slow to import, and not needed without a key.
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        return AESGCM(self._secret)

    def seal(self, plain: bytes | memoryview, context: bytes) -> bytes:
        nonce = os.urandom(_NONCE_SIZE)
        return nonce + self._cipher.encrypt(nonce, plain, context)

    def open(self, sealed: bytes | bytearray | memoryview, context: bytes) -> bytes:
        """`NotAuthentic` unless these bytes were sealed with this key in this context."""
        from cryptography.exceptions import InvalidTag

        if len(sealed) < OVERHEAD:
            raise NotAuthentic
        try:
            return self._cipher.decrypt(bytes(sealed[:_NONCE_SIZE]), sealed[_NONCE_SIZE:], context)
        except InvalidTag:
            raise NotAuthentic from None

    def wrap(self, other: Key, context: bytes) -> bytes:
        return self.seal(other._secret, context)

    def unwrap(self, wrapped: bytes, context: bytes) -> Key:
        """`NotAuthentic`, as `open`."""
        secret = self.open(wrapped, context)
        if len(secret) != KEY_SIZE:
            raise NotAuthentic
        return Key(secret)

    def __repr__(self) -> str:
        return "Key(…)"
