"""Compressed and encrypted chunks, against other implementations of the same formats."""

from __future__ import annotations

import base64
import io
import os
import random
from pathlib import Path

import pytest
from backports.zstd import ZstdError
from backports.zstd import decompress as zstd_of_all_frames
from crc32c import crc32c
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st
from pyzstd import SeekableZstdFile

from takhin_tiered.codec import zstd
from takhin_tiered.codec.aesgcm import OVERHEAD, Key, NotAuthentic
from takhin_tiered.codec.chunks import MOST_CHUNKS, ChunkSums, Coder, chunk_size_for, is_compressible, sample_ranges
from takhin_tiered.codec.keys import KeyRing
from takhin_tiered.errors import ConfigError, NoKey
from takhin_tiered.segments.chunks import count_of

LINES = b"".join(b'{"id": %d, "name": "somebody", "ok": true}\n' % number for number in range(5_000))


def test_an_object_is_in_zstds_seekable_format() -> None:
    pieces = [LINES[at : at + 50_000] for at in range(0, len(LINES), 50_000)]
    frames = [zstd.compress(piece, 3) for piece in pieces]
    table = zstd.seek_table([*map(len, frames)], [*map(len, pieces)])
    stored = b"".join(frames) + table
    assert len(table) == zstd.seek_table_size(len(frames))
    assert zstd_of_all_frames(stored) == LINES
    with SeekableZstdFile(io.BytesIO(stored), "r") as file:
        for at in (0, 49_999, 50_000, 123_456, len(LINES) - 7):
            file.seek(at)
            assert file.read(1_000) == LINES[at : at + 1_000]


@pytest.mark.parametrize("frame", [b"", b"nonsense", zstd.compress(LINES, 3)[:-5], zstd.compress(LINES, 3) + b"\0"])
def test_what_is_not_one_frame_is_refused(frame: bytes) -> None:
    with pytest.raises(ZstdError):
        zstd.decompress(frame, len(LINES))


@pytest.mark.parametrize("size", [len(LINES) - 1, len(LINES) + 1, 0])
def test_a_frame_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(ZstdError):
        zstd.decompress(zstd.compress(LINES, 3), size)


def test_sealed_bytes_are_nonce_ciphertext_and_tag() -> None:
    secret = os.urandom(32)
    sealed = Key(secret).seal(LINES, b"here")
    assert len(sealed) == len(LINES) + OVERHEAD
    assert AESGCM(secret).decrypt(sealed[:12], sealed[12:], b"here") == LINES


@pytest.mark.parametrize("level", [0, 3])
@pytest.mark.parametrize("is_sealed", [False, True])
def test_a_chunk_is_decoded_as_it_was_encoded(level: int, *, is_sealed: bool) -> None:
    coder = Coder(level, Key.random() if is_sealed else None, b"orders-0/0.log", 2)
    assert coder.decode(1, coder.encode(1, LINES), len(LINES)) == LINES


def test_a_sealed_chunk_opens_only_in_its_place() -> None:
    key = Key.random()
    coder = Coder(3, key, b"orders-0/0.log", 7)
    stored = coder.encode(3, LINES)
    others = [
        (Coder(3, key, b"orders-0/0.log", 7), 4),
        (Coder(3, key, b"orders-0/0.log", 8), 3),
        (Coder(3, key, b"orders-0/0.index", 7), 3),
        (Coder(3, Key.random(), b"orders-0/0.log", 7), 3),
    ]
    for other, number in others:
        with pytest.raises(NotAuthentic):
            other.decode(number, stored, len(LINES))


def test_any_changed_byte_of_a_sealed_chunk_is_found() -> None:
    coder, chance = Coder(3, Key.random(), b"orders-0/0.log", 1), random.Random(5)
    stored = coder.encode(0, LINES[:300])
    for at in range(len(stored)):
        changed = bytearray(stored)
        changed[at] ^= 1 << chance.randrange(8)
        with pytest.raises(NotAuthentic):
            coder.decode(0, bytes(changed), 300)


def test_a_data_key_is_unwrapped_only_where_it_belongs() -> None:
    ring, data = Key.random(), Key.random()
    wrapped = ring.wrap(data, b"segment a")
    assert ring.unwrap(wrapped, b"segment a").open(data.seal(LINES, b""), b"") == LINES
    for key, context in ((ring, b"segment b"), (Key.random(), b"segment a")):
        with pytest.raises(NotAuthentic):
            key.unwrap(wrapped, context)


def test_what_is_random_is_not_compressible() -> None:
    assert is_compressible([LINES])
    assert not is_compressible([os.urandom(1 << 16)])
    assert not is_compressible([zstd.compress(random.Random(1).randbytes(1 << 16), 3)])
    assert not is_compressible([])


@pytest.mark.parametrize("size", [0, 1, 1 << 16, 1 << 19, (1 << 19) + 1, 1 << 30])
def test_samples_lie_within_the_file(size: int) -> None:
    ranges = sample_ranges(size)
    assert ranges[0][0] == 0
    assert ranges[-1][1] == size
    assert sum(end - begin for begin, end in ranges) <= 8 << 16


@given(st.binary(max_size=300), st.integers(1, 70), st.integers(1, 90))
def test_checksums_of_chunks_do_not_depend_on_the_pieces_that_come(data: bytes, chunk_size: int, piece: int) -> None:
    sums = ChunkSums(chunk_size)
    for at in range(0, len(data), piece):
        sums.update(data[at : at + piece])
    assert sums.checksums() == tuple(crc32c(data[at : at + chunk_size]) for at in range(0, len(data), chunk_size))


@given(st.integers(0, 1 << 62), st.integers(1 << 14, 1 << 26))
def test_a_file_has_a_bounded_number_of_chunks(size: int, wanted: int) -> None:
    chosen = chunk_size_for(size, wanted)
    assert chosen % wanted == 0
    assert count_of(size, chosen) <= MOST_CHUNKS
    assert chosen == wanted or count_of(size, chosen // 2) > MOST_CHUNKS


def _file(place: Path, text: str) -> str:
    place.write_text(text)
    return str(place)


def test_the_first_key_is_for_new_segments(tmp_path: Path) -> None:
    one, two = (base64.b64encode(os.urandom(32)).decode() for _ in range(2))
    ring = KeyRing.load(_file(tmp_path / "keys", f"# ours\n\n2026-11 {two}\n2025-01\t{one}\n"))
    assert ring.current == "2026-11"
    assert set(ring.keys) == {"2026-11", "2025-01"}
    assert one not in repr(ring)
    assert not KeyRing.load("").keys
    with pytest.raises(NoKey, match=r"'2024'.*has 2026-11, 2025-01"):
        ring.get("2024")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "has no key"),
        ("# nothing\n", "has no key"),
        ("a", "line 1"),
        ("a b c", "line 1"),
        ("a AAAA", "line 1"),
        ("a not-base64!", "line 1"),
        (f"a/b {base64.b64encode(bytes(32)).decode()}", "line 1"),
        (f"a {base64.b64encode(bytes(32)).decode()}\n" * 2, "line 2.*repeats"),
        ("ä", "ASCII"),
    ],
)
def test_a_bad_key_file_is_told_with_its_line_and_without_its_content(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        KeyRing.load(_file(tmp_path / "keys", text))
    assert "AAAA" not in str(caught.value)


def test_a_key_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"encryption\.key\.file: .*nowhere cannot be read"):
        KeyRing.load(str(tmp_path / "nowhere"))
