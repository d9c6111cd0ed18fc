"""Whose a file is that is being written, by its name."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from takhin_tiered.store.directory import DirectoryStore
from takhin_tiered.store.unfinished import is_left, new_name

DAY = 86400.0


def name_of_another_process(*, dead: bool) -> str:
    program = "from takhin_tiered.store.unfinished import new_name; print(new_name(), flush=True); input()"
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    name = process.stdout.readline().strip()
    if dead:
        process.communicate("\n")
    else:
        _living.append(process)
    return name


_living: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def _end_them() -> Iterator[None]:
    yield
    while _living:
        _living.pop().communicate("\n")


def test_what_a_living_process_writes_stays() -> None:
    for name in (new_name(), name_of_another_process(dead=False)):
        assert not is_left(name, 1.0, 0.0)
        assert is_left(name, DAY + 1, 0.0)
    assert len({new_name() for _ in range(100)}) == 100


def test_what_a_dead_one_left_goes_at_once() -> None:
    name = name_of_another_process(dead=True)
    assert is_left(name, 1.0, 0.0)
    assert not is_left(name, 1.0, 5.0)


@pytest.mark.parametrize("change", ["space", "number", "short"])
def test_one_whose_writer_cannot_be_known_waits_a_day(change: str) -> None:
    unique, space, pid, started = name_of_another_process(dead=True).split(".")
    name = {
        "space": f"{unique}.{space[::-1]}x.{pid}.{started}",
        "number": f"{unique}.{space}.{pid}x.{started}",
        "short": f"{unique}.{space}.{pid}",
    }[change]
    assert not is_left(name, DAY - 1, 0.0)
    assert is_left(name, DAY + 1, 0.0)


def test_one_of_an_earlier_release_goes_by_its_age_alone() -> None:
    assert is_left("98afa351374a4cdca80620fc3f2a9d62", 1.0, 0.0)
    assert not is_left("98afa351374a4cdca80620fc3f2a9d62", 1.0, DAY)


async def test_a_store_clears_up_beside_somebody_who_writes(tmp_path: Path) -> None:
    folder = tmp_path / ".takhin-tmp"
    folder.mkdir()
    left, written = name_of_another_process(dead=True), name_of_another_process(dead=False)
    for name in (left, written, new_name()):
        (folder / name).write_bytes(b"half")
        os.utime(folder / name, (time.time() - 5,) * 2)
    assert await DirectoryStore(tmp_path).remove_stale_uploads(0) == 1
    assert not (folder / left).exists()
    assert (folder / written).exists()
