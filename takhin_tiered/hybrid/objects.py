"""The bytes of an item's object, and back. Pure.

Plain, an object is the gzip of the item as JSON, in DynamoDB's own form, with the same bytes for the same item. With a
codec it is a Zstandard frame instead. With a key, one line says how to open the rest: see docs/object-format.md.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping
from typing import Any

from backports.zstd import ZstdError

from takhin_tiered.aws.outcomes import Item
from takhin_tiered.codec.aesgcm import Key, NotAuthentic
from takhin_tiered.codec.keys import KeyRing
from takhin_tiered.codec.zstd import compress, content_size, decompress
from takhin_tiered.errors import Damaged, WrongKey

MOST_STORED, MOST_PLAIN = 8 << 20, 32 << 20
"""Bytes. An item has at most 400 KB, which become more as JSON."""
_ENCRYPTED = b'{"takhin-tiered-item":'
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_GZIP_LEVEL = 6
_HINT = "Nothing of it was given out. Look for an earlier version of the object in the bucket, or restore the table"


def to_json(item: Item) -> bytes:
    """The same bytes for the same item: attributes and members of sets are sorted."""
    return json.dumps(
        {name: _to_json(value) for name, value in item.items()},
        ensure_ascii=False,
        separators=(",", ":"),
        sort_keys=True,
    ).encode()


def from_json(data: bytes) -> Item:
    """`ValueError` where it is no item."""
    found = json.loads(data)
    if not isinstance(found, dict):
        raise ValueError("it is no JSON object")  # noqa: TRY004 - bytes that are no item
    return {name: _from_json(value) for name, value in found.items()}


def _to_json(value: Mapping[str, Any]) -> dict[str, Any]:
    ((kind, inner),) = value.items()
    if kind == "B":
        return {kind: base64.b64encode(inner).decode()}
    if kind == "BS":
        return {kind: sorted(base64.b64encode(each).decode() for each in inner)}
    if kind in {"SS", "NS"}:
        return {kind: sorted(inner)}
    if kind == "L":
        return {kind: [_to_json(each) for each in inner]}
    if kind == "M":
        return {kind: {name: _to_json(each) for name, each in inner.items()}}
    return {kind: inner}


def _from_json(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or len(value) != 1:
        raise ValueError("an attribute is no typed value")
    ((kind, inner),) = value.items()
    if kind == "B":
        return {kind: base64.b64decode(inner, validate=True)}
    if kind == "BS":
        return {kind: [base64.b64decode(each, validate=True) for each in inner]}
    if kind == "L":
        return {kind: [_from_json(each) for each in inner]}
    if kind == "M":
        return {kind: {name: _from_json(each) for name, each in inner.items()}}
    if kind not in {"S", "N", "BOOL", "NULL", "SS", "NS"}:
        raise ValueError(f"there is no type {kind!r}")
    return value


def pack(plain: bytes, key: str, *, level: int, keys: KeyRing) -> bytes:
    """``level`` is zstd's, 0 for gzip. ``key`` is that of the object: encrypted bytes open nowhere else."""
    data = compress(plain, level) if level else zlib.compress(plain, _GZIP_LEVEL, wbits=31)
    if not keys.current:
        return data
    data_key = Key.random()
    wrapped = keys.get(keys.current).wrap(data_key, _key_context(key))
    line = json.dumps(
        {"takhin-tiered-item": 1, "key_id": keys.current, "wrapped_key": base64.b64encode(wrapped).decode()},
        separators=(",", ":"),
    )
    return line.encode() + b"\n" + data_key.seal(data, _context(key))


def unpack(data: bytes, key: str, keys: KeyRing) -> bytes:
    """`Damaged`, `NoKey` and `WrongKey`; each names the object."""
    try:
        return _decompressed(_decrypted(data, key, keys) if data.startswith(_ENCRYPTED) else data)
    except (ValueError, KeyError, TypeError, zlib.error, ZstdError) as error:
        raise damaged(key, str(error)) from None


def read_item(plain: bytes, key: str) -> Item:
    """`Damaged` where it is no item."""
    try:
        return from_json(plain)
    except (ValueError, TypeError, RecursionError) as error:
        raise damaged(key, str(error)) from None


def damaged(key: str, why: str) -> Damaged:
    return Damaged(f"the object {key} is damaged: {why}", key=key, hint=_HINT)


def _decrypted(data: bytes, key: str, keys: KeyRing) -> bytes:
    line, newline, sealed = data.partition(b"\n")
    header = json.loads(line)
    if not newline or header["takhin-tiered-item"] != 1:
        raise ValueError("its first line is not of a version that this release knows")
    wrapping = keys.get(header["key_id"])
    try:
        data_key = wrapping.unwrap(base64.b64decode(header["wrapped_key"], validate=True), _key_context(key))
    except NotAuthentic:
        raise WrongKey(
            f"the key {header['key_id']!r} in storage.tiered.encryption.key.file does not fit the object {key}",
            key=key,
            hint="It is another key under the same ID, or the object was copied from another key. Nothing was read",
        ) from None
    try:
        return data_key.open(sealed, _context(key))
    except NotAuthentic:
        raise ValueError("it is not authentic: other bytes, or the object of another item") from None


def _decompressed(data: bytes) -> bytes:
    if data.startswith(_ZSTD):
        size = content_size(data)
        if size > MOST_PLAIN:
            raise ValueError(f"it claims {size} bytes")
        return decompress(data, size)
    if not data.startswith(_GZIP):
        raise ValueError("it is neither gzip nor zstd")
    inflate = zlib.decompressobj(wbits=31)
    plain = inflate.decompress(data, MOST_PLAIN)
    if not inflate.eof or inflate.unused_data:
        raise ValueError("it ends too early, or something follows its end")
    return plain


def _context(key: str) -> bytes:
    return f"takhin-tiered item 1\n{key}".encode()


def _key_context(key: str) -> bytes:
    return f"takhin-tiered item key 1\n{key}".encode()
