"""Archives of every form are verified, restored byte for byte, and read in place, with their catalog and without it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from takhin_tiered import SegmentRefused, Settings, TieredStorage
from takhin_tiered.reader.query import Isolation, RecordQuery
from tests.support import unpack

ARCHIVES = sorted(path.name.removesuffix(".tar.xz") for path in Path(__file__).parent.glob("archive-*.tar.xz"))
TOPIC, END = "ledger", 1027
COMMITTED, UNCOMMITTED = Isolation.READ_COMMITTED, Isolation.READ_UNCOMMITTED


@pytest.fixture
def expected(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """The archive, unpacked."""
    unpack(Path(__file__).parent / f"{request.param}.tar.xz", tmp_path)
    found: dict[str, Any] = json.loads((tmp_path / "expected.json").read_text())
    return found | {"name": request.param}


@pytest.fixture(params=["its catalog", "no catalog"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Settings]:
    def made() -> Settings:
        keys = tmp_path / "keys"
        return Settings(
            data_dir=tmp_path / "kafka" / "data",
            enabled=True,
            archive_mode="move",
            directory_path=tmp_path / "store",
            state_path=tmp_path / ("state" if request.param == "its catalog" else "new-state"),
            encryption_key_file=keys if keys.exists() else None,
        )

    return made


@pytest.mark.parametrize("expected", ARCHIVES, indirect=True)
async def test_it_is_verified_and_restored(
    tmp_path: Path, expected: dict[str, Any], settings: Callable[[], Settings]
) -> None:
    data = tmp_path / "kafka" / "data"
    async with TieredStorage.open(settings()) as storage:
        await storage.rebuild()
        assert [verdict.problem async for verdict in storage.verify(deep=True)] == [""] * 5
        for info in sorted(storage.segments(topic=TOPIC), key=lambda each: each.base_offset, reverse=True):
            if info.is_archived:
                await storage.restore_segment(info.segment_path, force=True)
    found = {name: hashlib.sha256((data / name).read_bytes()).hexdigest() for name in expected["files"]}
    assert found == expected["files"]


async def read_all(storage: TieredStorage, isolation: Isolation) -> list[tuple[int, bytes | None]]:
    found, offset = [], 0
    while offset < END:
        page = await storage.read_records(RecordQuery(TOPIC, 0, offset=offset, isolation=isolation), 50)
        found += [(record.offset, record.value) for record in page.records if record.offset < END]
        assert page.next_offset > offset
        offset = page.next_offset
    return found


@pytest.mark.parametrize("expected", ARCHIVES, indirect=True)
async def test_it_is_read_in_place(expected: dict[str, Any], settings: Callable[[], Settings]) -> None:
    async with TieredStorage.open(settings()) as storage:
        await storage.rebuild()
        everything = await read_all(storage, UNCOMMITTED)
        if expected["name"] == "archive-v1":
            # Nothing of that archive tells which transactions were aborted.
            with pytest.raises(SegmentRefused, match="transaction"):
                await read_all(storage, COMMITTED)
        else:
            committed = await read_all(storage, COMMITTED)
            assert len(everything) - len(committed) == 80
            assert set(committed) < set(everything)
        assert not any(info.is_archived is False and info.base_offset < END for info in storage.segments(topic=TOPIC))
        for info in list(storage.segments(topic=TOPIC)):
            await storage.restore_segment(info.segment_path, force=True) if info.is_archived else None
        assert await read_all(storage, UNCOMMITTED) == everything
        assert [offset for offset, _ in everything] == sorted({offset for offset, _ in everything})
        assert len(everything) == expected["records"] - 35
