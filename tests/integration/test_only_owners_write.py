"""Nothing is written to a store, and nothing removed from it, by whoever does not own its prefix."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import takhin_tiered
from takhin_tiered import HeldElsewhere, Settings, TieredStorage
from takhin_tiered.engine import archive, copying, cycle, evict, expire, merged, scrub, steps, superseded
from takhin_tiered.segments.owner import OF_PREFIX
from takhin_tiered.store import DirectoryStore
from takhin_tiered.vault import orphans, writer
from takhin_tiered.vault.owned import OwnedPrefix
from tests.integration.test_ownership import owned, party
from tests.support import Broker, daemon, directory_settings

ROOT = Path(takhin_tiered.__file__).parent
WRITES = {"put", "delete", "remove_stale_uploads"}
VERBS = [
    archive.Archiver.archive, archive.Archiver.archive_together, copying.Copier.copy, copying.Copier.copy_held,
    cycle.Cycle.run, evict.Evictor.evict, evict.Evictor.evict_held, evict.Evictor.evict_together,
    expire.Expirer.expire, merged.MergedRemover.expire_merged, merged.forget_compacted, orphans.remove_orphans,
    orphans.remove_stale_uploads, orphans.settle_held, scrub.Scrubber.scrub, scrub.Scrubber.scrub_one,
    steps.StepRunner.carry_out, superseded.SupersededRemover.remove_all, superseded.SupersededRemover.remove,
    writer.Writer.__init__,
]  # fmt: skip


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.__qualname__)
def test_a_verb_that_writes_takes_an_owned_prefix(verb: Callable[..., object]) -> None:
    assert any("OwnedPrefix" in str(each.annotation) for each in inspect.signature(verb).parameters.values())


def test_only_ownership_makes_an_owned_prefix() -> None:
    """But for the objects of hybrid tables, which have no owner: `hybrid.shelf` says why."""
    makers = {
        path.relative_to(ROOT).as_posix()
        for path in ROOT.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == OwnedPrefix.__name__
    }
    assert makers == {"vault/ownership.py", "hybrid/shelf.py"}


def test_outside_the_vault_nobody_calls_what_writes_to_a_store() -> None:
    """But for the `doctor`, which probes with an object of its own, where it may."""
    calling = set()
    for path in ROOT.rglob("*.py"):
        name = path.relative_to(ROOT).as_posix()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in WRITES:
                owner = ast.unparse(node.func.value)
                if "store" in owner.lower():
                    calling.add(name)
    assert {name for name in calling if not name.startswith(("store/", "vault/"))} <= {"cli/probe.py"}


@dataclass
class Damaged:
    """A segment that stands on the disk, and whose archived log is damaged: a scrub would store it again."""

    settings: Settings
    path: str
    log: Path

    @property
    def objects(self) -> dict[str, bytes]:
        return {each.name: each.read_bytes() for each in self.log.parent.iterdir()}


@pytest.fixture
async def damaged(broker: Broker, tmp_path: Path) -> Damaged:
    settings = directory_settings(broker, tmp_path / "store", archive_mode="copy", archive_interval_minutes=60.0)
    (path,) = broker.segments("orders-0", 1)
    async with TieredStorage.open(settings) as storage:
        await storage.run_cycle()
    (tmp_path / "store" / path).write_bytes(b"damaged")
    return Damaged(settings, path, tmp_path / "store" / path)


async def test_against_a_foreign_owner_no_verb_writes(damaged: Damaged, tmp_path: Path) -> None:
    before = damaged.objects
    async with owned(DirectoryStore(tmp_path / "store"), party("another")):
        async with TieredStorage.open(damaged.settings) as storage:
            for verb in (
                storage.scrub_segment(damaged.path),
                storage.scrub(),
                storage.archive_segment(damaged.path),
                storage.run_cycle(),
                storage.remove_superseded([], 1.0),
            ):
                with pytest.raises(HeldElsewhere):
                    await verb
        assert damaged.objects == before


@pytest.mark.long
async def test_a_scrub_through_the_api_against_a_foreign_owner_heals_nothing(damaged: Damaged, tmp_path: Path) -> None:
    """The daemon owned the prefix, until another one took it over."""
    before = damaged.objects
    with daemon(damaged.settings, tmp_path / "log") as running:
        running.wait_logged("cycle ended")
        (tmp_path / "store" / OF_PREFIX.owner).write_bytes(party("another").dump())
        answer = running.request("POST", "/api/v1/tiered/scrub", json={"segment_path": damaged.path})
        assert answer.status_code >= 400
        assert "another" in answer.json()["error"] or "taken over" in answer.json()["error"]
        assert damaged.objects == before


async def test_by_its_owner_it_is_healed(damaged: Damaged) -> None:
    """Else the two before would show nothing."""
    async with TieredStorage.open(damaged.settings) as storage:
        verdict = await storage.scrub_segment(damaged.path)
    assert verdict.healed
