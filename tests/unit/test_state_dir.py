"""Where the state is kept when the data directory is the only place that the daemon may write to."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from takhin_tiered import Settings

NOBODY = 65534


@pytest.fixture
def data() -> Iterator[Path]:
    """A volume of another user's in a directory that this one may not write to."""
    home = Path(tempfile.mkdtemp())
    volume = home / "data"
    (volume / "orders-0").mkdir(parents=True)
    if os.geteuid() == 0:
        os.chown(volume, NOBODY, NOBODY)
    home.chmod(0o555)
    yield volume
    home.chmod(0o755)
    shutil.rmtree(home)


def seen_by_nobody(ask: Callable[[], Path]) -> str:
    """Asked by a process that may do what its permissions say: root may do anything."""
    if os.geteuid():
        return str(ask())
    read, write = os.pipe()
    if not (child := os.fork()):
        os.setuid(NOBODY)
        os.write(write, str(ask()).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    with os.fdopen(read) as answer:
        return answer.read()


def test_it_is_inside_where_nothing_can_be_made_beside(data: Path) -> None:
    assert seen_by_nobody(lambda: Settings(data_dir=data).state_dir) == str(data / ".takhin-tiered")


def test_it_stays_beside_where_it_is_already(data: Path) -> None:
    data.parent.chmod(0o755)
    beside = data.with_name("data.takhin-tiered")
    beside.mkdir()
    data.parent.chmod(0o555)
    assert seen_by_nobody(lambda: Settings(data_dir=data).state_dir) == str(beside)


@pytest.mark.parametrize("found", ["meta.properties", "nothing"])
def test_it_is_never_made_inside_what_is_or_may_become_kafkas(data: Path, found: str) -> None:
    if found == "nothing":
        (data / "orders-0").rmdir()
    else:
        (data / found).touch()
    assert seen_by_nobody(lambda: Settings(data_dir=data).state_dir) == str(data.with_name("data.takhin-tiered"))
