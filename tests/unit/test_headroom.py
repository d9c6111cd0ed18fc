"""How long the disk lasts."""

from __future__ import annotations

from takhin_tiered.engine.headroom import Headroom


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
