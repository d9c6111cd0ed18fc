"""The offset behind the last whole batch of a stream, however it is cut into pieces."""

from __future__ import annotations

import random

import pytest

from takhin_tiered.formats.batch import parse_any
from takhin_tiered.formats.position import LogPosition
from takhin_tiered.formats.sample import make_segment


def _behind(log: bytes) -> list[tuple[int, int]]:
    """Where each batch ends, and the offset behind it."""
    found, at = [], 0
    while (batch := parse_any(log[at:], at)) is not None:
        at += batch.size
        found.append((at, batch.last_offset + 1))
    return found


@pytest.mark.parametrize("seed", range(20))
def test_pieces_of_any_size(seed: int) -> None:
    draw = random.Random(seed)
    log = make_segment(7, 200_000).log
    ends = _behind(log)
    position, at = LogPosition(), 0
    while at < len(log):
        size = draw.choice((1, 7, 61, 400, 9_000, 30_000, 100_000))
        piece = log[at : at + size]
        at += len(piece)
        position.pass_by(memoryview(piece) if draw.random() < 0.5 else piece)
        whole = [offset for end, offset in ends if end <= at]
        assert position.next_offset == (whole[-1] if whole else None)
