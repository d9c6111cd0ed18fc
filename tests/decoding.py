"""From an object to its file, by the documented form alone: no code of the program."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from backports.zstd import decompress
from cryptography.hazmat.primitives.ciphers.aead import AESGCM


def keys_in(path: Path) -> dict[str, bytes]:
    """The keys of a key file."""
    lines = [line.split() for line in path.read_text().splitlines()]
    return {name: base64.b64decode(key) for name, key in lines}


def plain_of(manifest: Mapping[str, Any], kind: str, stored: bytes, keys: Mapping[str, bytes]) -> bytes:
    """The bytes of the file of an object; fails unless they are what the manifest says."""
    entry = manifest["files"][kind]
    assert (len(stored), sha256(stored, entry["part_size"])) == (entry["size"], entry["sha256"])
    if "plain" not in entry:
        return stored
    label = manifest["incarnation"]["label"]
    path = f"{manifest['segment']}@{label}" if label else manifest["segment"]
    sizes, at, pieces = entry["chunks"].get("stored", []), 0, []
    for number, size in enumerate(sizes):
        piece = stored[at : at + size]
        at += size
        if "encryption" in entry:
            wrapped = base64.b64decode(entry["encryption"]["wrapped_key"])
            context = f"takhin-tiered key 1\n{manifest['topic_id']}\n{path}".encode()
            key = AESGCM(keys[entry["encryption"]["key_id"]]).decrypt(wrapped[:12], wrapped[12:], context)
            context = (
                f"takhin-tiered 1\n{manifest['topic_id']}\n{path}\n{kind}\nchunk {number} of {len(sizes)}".encode()
            )
            piece = AESGCM(key).decrypt(piece[:12], piece[12:], context)
        pieces.append(decompress(piece) if "codec" in entry else piece)
    plain = b"".join(pieces)
    assert len(plain) == entry["plain"]["size"]
    assert sha256(plain, entry["plain"]["part_size"]) == entry["plain"]["sha256"]
    return plain


def sha256(data: bytes, part_size: int) -> str:
    """In the form of a manifest."""
    if not part_size:
        return hashlib.sha256(data).hexdigest()
    digests = [hashlib.sha256(data[at : at + part_size]).digest() for at in range(0, len(data), part_size)]
    return f"{hashlib.sha256(b''.join(digests)).hexdigest()}-{len(digests)}"
