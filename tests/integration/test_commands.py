"""The command line, as processes: results on standard output, errors on standard error, exit status."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from takhin_tiered import Settings
from tests.support import HOUR, WARM, Broker, Bucket, command, daemon, directory_settings, store_settings

pytestmark = pytest.mark.long


def everything(root: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"") for path in root.rglob("*")
    }


@pytest.fixture
def settings(broker: Broker, tmp_path: Path) -> Settings:
    return directory_settings(broker, tmp_path / "store")


def run(settings: Settings, *arguments: str, status: int = 0) -> str:
    ended = command(settings, *arguments)
    assert ended.returncode == status, ended.stderr
    assert "Traceback" not in ended.stderr
    return ended.stdout if status == 0 else ended.stderr


@pytest.mark.parametrize(
    "arguments", [["plan"], ["plan", "--json"], ["status"], ["ls"], ["verify"], ["config", "show"]]
)
def test_looking_changes_nothing(broker: Broker, settings: Settings, tmp_path: Path, arguments: list[str]) -> None:
    broker.segments("orders-0", 2)
    before = everything(tmp_path)
    assert run(settings, *arguments)
    assert everything(tmp_path) == before


@pytest.mark.long
@pytest.mark.parametrize("held", [False, True])
def test_the_same_commands_work_with_and_without_a_daemon(
    broker: Broker, settings: Settings, tmp_path: Path, held: bool
) -> None:
    first, second = broker.segments("orders-0", 2, age_hours=WARM)
    other = broker.segments("payments-0", 1, age_hours=WARM)[0]

    def check() -> None:
        assert "archived orders-0" in run(settings, "archive", "orders-*")
        assert broker.on_disk(first) == broker.on_disk(second) == []
        assert broker.is_whole(other)
        listed = json.loads(run(settings, "ls", "--json", "--state", "archived"))
        assert [segment["segment_path"] for segment in listed] == [first, second]
        assert first in run(settings, "ls", "orders-0")
        assert first not in run(settings, "ls", "payments-*", "--tier", "warm")
        assert run(settings, "restore", first).splitlines()[-1] == "1 segment restored, 0 failed"
        assert broker.is_whole(first)
        found = json.loads(run(settings, "status", "--json"))
        assert (found["total_segments"], found["archived_segments"], found["store_reachable"]) == (5, 1, True)
        assert "5: " in run(settings, "status")
        plan = json.loads(run(settings, "plan", "--json"))
        assert set(plan) == {"made_at", "bytes_uploaded", "bytes_freed", "saved_usd_monthly", "segments", "cost"}
        assert {step["action"] for step in plan["segments"]} == {"keep"}
        assert "2 archived segments verified" in run(settings, "verify", "--deep")
        partitions = json.loads(run(settings, "ls", "--partitions", "orders-*", "--json"))["partitions"]
        middle = int(Path(second).stem)
        active = int(Path(listed_active(settings)).stem)
        end = broker.next_offset["orders-0"] - 1
        assert [(each["archived"], each["local"]) for each in partitions] == [
            ([[0, active - 1]], [[0, middle - 1], [active, end]])
        ]
        assert f"0-{active - 1}" in run(settings, "ls", "--partitions")
        assert "1 segment to restore" in run(settings, "restore", "orders-0", "-n")
        assert broker.on_disk(second) == []
        assert "Nothing to restore" in run(settings, "restore", "orders-0", "--offsets", f"-{middle - 1}")
        said = run(settings, "restore", "orders-0", "--offsets", f"{middle}-", "--for", "90m")
        assert said.splitlines() == [f"restored {second}", "1 segment restored, 0 failed"]
        assert broker.is_whole(second)
        assert "no incarnation" in run(settings, "restore", first, "--topic-id", "A" * 22, status=1)
        assert "is not a range of offsets" in run(settings, "restore", first, "--offsets", "x", status=2)
        assert "no segment matches" in run(settings, "archive", "nothing-*", status=1)
        assert "is the active one" in run(settings, "archive", listed_active(settings), status=1)
        assert "neither on disk nor in the archive" in run(
            settings, "restore", "x-0/00000000000000000000.log", status=1
        )

    if held:
        with daemon(settings, tmp_path / "log") as running:
            running.wait_logged("cycle ended")
            check()
    else:
        check()


def listed_active(settings: Settings) -> str:
    return next(str(s["segment_path"]) for s in json.loads(run(settings, "ls", "--json")) if s["is_active"])


def test_verify_finds_holes_between_manifests(broker: Broker, settings: Settings, tmp_path: Path) -> None:
    closed = broker.segments("orders-0", 3)
    run(settings, "run", "--once")
    assert "hole" not in run(settings, "verify")
    for file in (tmp_path / "store").rglob(f"{Path(closed[1]).stem}.*"):
        file.unlink()
    settings = settings.model_copy(update={"state_path": tmp_path / "new"})
    run(settings, "rebuild")
    ended = command(settings, "verify")
    assert ended.returncode == 1
    first, end = int(Path(closed[1]).stem), int(Path(closed[2]).stem) - 1
    assert f"HOLE orders-0: offsets {first}-{end} are neither archived nor local" in ended.stdout
    ended = command(settings, "verify", "--json")
    assert json.loads(ended.stdout)["holes"][0]["offsets"] == [first, end]
    assert command(settings, "verify", closed[0]).returncode == 0
    assert "no archived segment matches" in run(settings, "verify", "nothing-*", status=1)


def test_run_once_is_one_cycle(broker: Broker, bucket: Bucket) -> None:
    closed = broker.segments("orders-0", 2)
    settings = store_settings(broker, bucket)
    run(settings, "run", "--once")
    assert not any(broker.on_disk(path) for path in closed)
    content = bytearray(bucket.read(closed[0]))
    content[5] ^= 1
    bucket.write(closed[0], bytes(content))
    bucket.delete(closed[1])
    ended = command(settings, "verify")
    assert ended.returncode == 1
    assert f"BAD {closed[0]}" in ended.stdout
    assert f"BAD {closed[1]}" in ended.stdout
    assert "2 bad" in ended.stdout


def test_run_once_tells_what_failed(broker: Broker, bucket: Bucket) -> None:
    path = broker.segments("orders-0", 1)[0]
    bucket.write("takhin-tiered.store.json", b'{"id": "known"}')
    bucket.write(path.replace(".log", ".manifest.json"), b'{"version": 99}')
    said = run(store_settings(broker, bucket), "run", "--once", status=1)
    assert path in said
    assert "version 99" in said
    assert broker.is_whole(path)


def test_a_store_that_is_down_ends_a_command_with_1(broker: Broker, settings: Settings, tmp_path: Path) -> None:
    path = broker.segments("orders-0", 1)[0]
    (tmp_path / "store").rmdir()
    assert "is not there" in run(settings, "archive", path, status=1)
    assert "is not there" in run(settings, "run", "--once", status=1)
    assert broker.is_whole(path)


@pytest.mark.parametrize(
    "arguments", [["frobnicate"], ["ls", "--nonsense"], ["archive"], ["--config", "/no/such/file.yaml", "status"]]
)
def test_usage_and_configuration_end_with_2(settings: Settings, arguments: list[str]) -> None:
    run(settings, *arguments, status=2)


def test_the_configuration_is_found_wherever_it_is_named(broker: Broker, settings: Settings, tmp_path: Path) -> None:
    config = tmp_path / "takhin.yaml"
    config.write_text(f"storage: {{data: {{dir: {broker.root}}}, tiered: {{cold.age.hours: 200, api.token: hidden}}}}")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TAKHIN_")}
    for arguments, variables in (
        (["--config", str(config), "config", "show"], {}),
        (["config", "show", "--config", str(config)], {}),
        (["config", "show"], {"TAKHIN_CONFIG": str(config)}),
    ):
        ended = subprocess.run(
            [sys.executable, "-m", "takhin_tiered", *arguments],
            env={**clean, **variables, "TAKHIN_STORAGE_TIERED_WARM_AGE_HOURS": "0.5"},
            capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        rows = {line.split()[0]: line.split()[1:] for line in ended.stdout.splitlines()[1:]}
        assert rows["storage.tiered.cold.age.hours"] == ["200", str(config)]
        assert rows["storage.tiered.warm.age.hours"] == ["0.5", "TAKHIN_STORAGE_TIERED_WARM_AGE_HOURS"]
        assert rows["storage.tiered.archive.mode"] == ["move", "default"]  # in effect, as no Kafka stands there
        assert rows["storage.tiered.archive.corrupt"] == ["archive", "default"]
        assert rows["storage.tiered.api.token"] == ["**********", str(config)]
        assert "hidden" not in ended.stdout + ended.stderr
    assert "is valid" in run(settings, "config", "check")


def test_what_is_unlinked_is_not_told_as_free_before_the_broker_closes_it(
    broker: Broker, settings: Settings, tmp_path: Path
) -> None:
    path = broker.segments("orders-0", 2)[0]
    with (broker.root / path).open("rb"):
        planned = " ".join(run(settings, "plan").split())
        assert "of files to be unlinked" in planned
        assert "becomes free when the broker closes the file" in planned
        assert "freed" not in planned
        with daemon(settings, tmp_path / "log") as running:
            running.wait_logged('"bytes_unlinked": ')
            assert "of files unlinked" in " ".join(run(settings, "status").split())
    assert "once the broker closes it" not in run(settings, "plan")


def test_the_demonstration_runs(settings: Settings) -> None:
    said = run(settings, "demo")
    assert "12 segments archived" in said
    assert "byte for byte" in said
    assert "0 bad" in said


@pytest.mark.parametrize("style", ["json", "text"])
def test_a_log_that_cannot_be_written_stops_no_work(broker: Broker, settings: Settings, style: str) -> None:
    """Where the disk is full, whoever frees disks is needed most."""
    closed = broker.segments("orders-0", 2)
    with Path("/dev/full").open("wb") as full:
        ended = command(settings.model_copy(update={"log_format": style}), "run", "--once", stderr=full)
    assert ended.returncode == 0
    assert not any(broker.on_disk(path) for path in closed)


def test_times_in_the_future_are_told(broker: Broker, settings: Settings) -> None:
    broker.segments("orders-0", 2, age_hours=-24 * 365)
    assert "modified in the future" in command(settings, "run", "--once").stderr
    assert "2 segments modified in the future" in run(settings, "status")
    assert json.loads(run(settings, "status", "--json"))["future_segments"] == 2


def test_a_preallocated_tail_of_zeros_is_no_hole(broker: Broker, settings: Settings, tmp_path: Path) -> None:
    """Whether records stood there nobody knows: the segment is marked as damaged, and the next one follows."""
    first = broker.segment("orders-0")
    with (broker.root / first).open("r+b") as log:
        log.truncate(1 << 20)
    os.utime(broker.root / first, (time.time() - 300 * HOUR,) * 2)
    broker.next_offset["orders-0"] += 50
    broker.segments("orders-0", 1)
    run(settings, "run", "--once")
    assert "hole" not in run(settings, "verify", "--deep").lower()
