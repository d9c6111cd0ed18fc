"""How long the disk lasts."""

from __future__ import annotations

from takhin_tiered.engine.headroom import Headroom, lasts


def test_headroom_is_told_while_the_disk_shrinks() -> None:
    headroom = Headroom()
    assert headroom.seconds() is None
    headroom.note(0, 1000)
    headroom.note(10, 900)
    assert headroom.seconds() is None
    headroom.note(100, 500)
    assert headroom.seconds() == 100
    headroom.note(5000, 2000)
    assert headroom.seconds() is None


def test_one_file_of_somebodys_is_no_rate() -> None:
    assert lasts(90, 100_500, 100_000) is None
    assert lasts(90, 101_000, 100_000) == 9000
    assert lasts(3600, 100_000, 100_000) is None
    assert lasts(59, 1000, 1) is None
