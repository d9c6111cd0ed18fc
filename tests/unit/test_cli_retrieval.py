"""The wait of ``restore`` for what lies in an archive class."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest

from takhin_tiered.cli.retrieval import wait_for
from takhin_tiered.errors import InGlacier, StoreError

OLD, NEW, OTHER = (
    "orders-0/00000000000000000000.log",
    "orders-0/00000000000000000100.log",
    "pay-0/00000000000000000000.log",
)


@dataclass
class Shelf:
    """Segments that come back after so many looks; None: never."""

    looks: dict[str, int | None]
    broken: set[str] = field(default_factory=set)
    back: list[str] = field(default_factory=list)

    async def __call__(self, path: str, /, *, request_only: bool = False) -> None:
        left = self.looks[path]
        if path in self.broken:
            raise StoreError("it cannot be reached")
        if left != 0:
            self.looks[path] = None if left is None else left - 1
            raise InGlacier("it has to be retrieved")
        self.back.append(path)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("takhin_tiered.cli.retrieval._FIRST_PAUSE", 0.01)


async def test_it_waits_until_all_are_back(capsys: pytest.CaptureFixture[str]) -> None:
    requested = dict.fromkeys((OLD, NEW, OTHER), "it has to be retrieved")
    shelf = Shelf({OLD: 3, NEW: 0, OTHER: 1})
    assert await wait_for(requested, shelf, at_most=math.inf) == 0
    assert (requested, shelf.back) == ({}, [OTHER, OLD, NEW])
    assert "waiting for 3 segments" in capsys.readouterr().err


async def test_where_nobody_watches_it_ends_and_leaves_what_is_still_on_its_way() -> None:
    requested = dict.fromkeys((OLD, OTHER), "it has to be retrieved")
    shelf = Shelf({OLD: None, OTHER: 0})
    assert await wait_for(requested, shelf, at_most=0.2) == 0
    assert (list(requested), shelf.back) == ([OLD], [OTHER])


async def test_another_failure_is_counted_and_does_not_stop_the_others() -> None:
    requested = dict.fromkeys((OLD, OTHER), "it has to be retrieved")
    shelf = Shelf({OLD: 0, OTHER: 1}, broken={OLD})
    assert await wait_for(requested, shelf, at_most=math.inf) == 1
    assert (requested, shelf.back) == ({}, [OTHER])
