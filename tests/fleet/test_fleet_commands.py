"""``takhin-tiered fleet`` from the terminal, and migrations that are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter

import pytest

from takhin_tiered.config import Settings
from takhin_tiered.fleet.entities import Checkpoint, Migration
from takhin_tiered.fleet.repositories import Repository, Scope, Table
from tests.fleet.catalogs import everything, fill
from tests.support import Broker, command, environment, free_port, to_point

pytestmark = pytest.mark.long

NODE = "broker-1"
FULL = os.environ.get("TAKHIN_TEST_TORTURE") == "full"
KILLED_COUNT, SECONDS = (100_000, 900) if FULL else (3_000, 100)


def fleet(settings: Settings, *arguments: str, exits: int = 0) -> str:
    """What a command says, on whichever of its outputs."""
    program = [sys.executable, "-m", "takhin_tiered", "fleet", *arguments]
    done = subprocess.run(
        program, env=environment(settings), capture_output=True, text=True, check=False, timeout=SECONDS
    )
    assert done.returncode == exits, done.stdout + done.stderr
    return done.stderr if exits else done.stdout


async def test_each_command(settings: Settings, table: Table) -> None:
    await fill(settings, 3)
    assert "is there, as the contract says" in fleet(settings, "init")
    assert "Add --yes" in fleet(settings, "migrate", exits=2)
    assert "4 of 4 items would be written" in fleet(settings, "migrate", "--dry-run")
    assert await everything(table) == {}
    *_, last = fleet(settings, "migrate", "--yes", "--batch-size", "2").splitlines()
    word, run = last.split()
    assert word == "run"
    assert "3 segments of node broker-1: no difference" in fleet(settings, "verify")
    shown = fleet(settings, "status")
    assert NODE in shown
    assert f"run {run} of node broker-1: done, 4 of 4 items written" in shown
    listed = json.loads(fleet(settings, "ls", "orders-1", "--json"))
    assert [(each["segment_path"], each["node"]) for each in listed] == [("orders-1/00000000000000000000.log", NODE)]
    # With the three segments and the node, the entry in the log of operations.
    assert "5 items deleted" in fleet(settings, "rollback", run, "--yes")
    assert await everything(table) == {}


async def test_a_single_cycle_writes_to_the_table_too(settings: Settings, table: Table, broker: Broker) -> None:
    """And where it cannot, the cycle is done all the same."""
    broker.segments("orders-0", 2)
    nowhere = f"http://127.0.0.1:{free_port()}"
    dual = settings.with_changes(
        Settings(data_dir=settings.data_dir, fleet_table=table.name, fleet_mode="dual"), ["fleet_mode"]
    )
    away = dual.with_changes(Settings(data_dir=settings.data_dir, fleet_endpoint=nowhere), ["fleet_endpoint"])
    done = command(away, "run", "--once")
    assert (done.returncode, "the fleet's table cannot be written" in done.stderr) == (0, True)
    assert not broker.on_disk(f"orders-0/{0:020d}.log")
    assert command(dual, "run", "--once").returncode == 0
    states = Counter(item["s"]["S"] for item in (await everything(table)).values() if item["e"] == {"S": "Segment"})
    assert states == {"archived": 2, "local": 1}
    told = fleet(dual, "status", "--json")
    assert [each["archived_segments"] for each in json.loads(told)["nodes"]] == [2]
    checked = command(dual, "doctor").stdout
    assert f"table {table.name} is ACTIVE; this is node {NODE}" in checked
    assert f"node {NODE} of table {table.name}, mode dual" in command(dual, "status").stdout


async def test_a_table_that_cannot_be_reached(settings: Settings) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    away = settings.with_changes(Settings(data_dir=settings.data_dir, fleet_endpoint=nowhere), ["fleet_endpoint"])
    assert "does not answer" in fleet(away, "status", exits=1)
    missing = settings.with_changes(Settings(data_dir=settings.data_dir, fleet_table="nothing"), ["fleet_table"])
    assert "fleet init" in fleet(missing, "status", exits=1)


@pytest.mark.timeout(2 * SECONDS)
async def test_a_run_is_killed_twice_continued_and_taken_back(settings: Settings, table: Table) -> None:
    """And its rollback is killed too."""
    await fill(settings, KILLED_COUNT)
    checkpoints = Repository(table, Checkpoint)

    async def done() -> int:
        async for run in Repository(table, Migration).each(Scope(f"N#{NODE}", "M#", "GSI1")):
            found = await checkpoints.get(run=run.run, name="position")
            return found.done if found else 0
        return 0

    def kill(*arguments: str, point: str, nth: int) -> None:
        ended = to_point(settings, "fleet", *arguments, point=point, nth=nth, seconds=SECONDS)
        assert ended.returncode == -signal.SIGKILL, ended.stderr

    for resumed in ([], ["--resume"]):
        before = await done()
        # A position is kept for each 500 items, or each second.
        kill("migrate", "--yes", *resumed, point="fleet.migrate.kept", nth=max(2, KILLED_COUNT // 2000))
        assert await done() > before
    assert 0 < await done() < KILLED_COUNT
    # What was not finished is not begun again beside it.
    assert "--resume" in fleet(settings, "migrate", "--yes", exits=1)
    result = json.loads(fleet(settings, "migrate", "--yes", "--resume", "--json"))
    assert (result["total"], result["written"], result["unchanged"]) == (KILLED_COUNT + 1, KILLED_COUNT + 1, 0)
    assert result["resumed"]
    assert json.loads(fleet(settings, "verify", "--json")) == {"segments": KILLED_COUNT, "differences": []}

    kill("rollback", result["run"], "--yes", point="fleet.rollback.written", nth=KILLED_COUNT // 150)
    assert 0 < len(await everything(table)) < KILLED_COUNT
    fleet(settings, "rollback", result["run"], "--yes")
    assert await everything(table) == {}
