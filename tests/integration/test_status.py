"""``status``: what is remembered of cycles, what a monitor is told, and what is told of a daemon that stands still."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from takhin_tiered import Settings
from takhin_tiered.cli.status import problems_of
from takhin_tiered.segments.results import StatusHere, from_json
from tests.support import HOUR, Broker, command, daemon, directory_settings

pytestmark = pytest.mark.long


@pytest.fixture
def settings(broker: Broker, tmp_path: Path) -> Settings:
    return directory_settings(broker, tmp_path / "store")


def problems(settings: Settings) -> list[str]:
    """What ``status --check`` says, a line each; its exit status has to agree."""
    ended = command(settings, "status", "--check")
    lines = [line for line in ended.stdout.splitlines() if line.startswith("PROBLEM")]
    assert ended.returncode == (1 if lines else 0), ended.stderr
    assert "Traceback" not in ended.stderr
    assert bool(lines) != ("ok: no problem found" in ended.stdout)
    return lines


def told(settings: Settings, *arguments: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(command(settings, "status", "--json", *arguments).stdout)
    return found


def test_the_last_cycle_outlives_its_process(broker: Broker, settings: Settings) -> None:
    assert problems(settings) == [
        "PROBLEM no cycle has run here yet: start the daemon, or run takhin-tiered run --once"
    ]
    broker.segments("orders-0", 3)
    assert command(settings, "run", "--once").returncode == 0
    cycle = told(settings)["last_cycle"]
    assert isinstance(cycle, dict)
    assert (cycle["archived"], cycle["evicted"], cycle["failures"]) == (3, 3, [])
    assert "3 archived, 0 copied, 3 evicted" in " ".join(command(settings, "status").stdout.split())
    assert problems(settings) == []


def test_a_copy_is_not_counted_as_evicted(broker: Broker, settings: Settings) -> None:
    settings = settings.model_copy(update={"archive_mode": "copy"})
    settings.model_fields_set.add("archive_mode")
    broker.segments("orders-0", 3)
    assert command(settings, "run", "--once").returncode == 0
    cycle = told(settings)["last_cycle"]
    assert isinstance(cycle, dict)
    assert (cycle["copied"], cycle["evicted"]) == (3, 0)


def test_a_cycle_that_failed_is_told_until_one_succeeds(broker: Broker, settings: Settings, tmp_path: Path) -> None:
    broker.segments("orders-0", 2)
    (tmp_path / "store").rename(tmp_path / "away")
    assert command(settings, "run", "--once").returncode == 1
    down, failed = problems(settings)
    assert "the store is down" in down
    assert "the last cycle could not run" in failed
    assert "is not there" in failed
    (tmp_path / "away").rename(tmp_path / "store")
    (after,) = problems(settings)
    assert "the last cycle could not run" in after
    assert command(settings, "run", "--once").returncode == 0
    assert problems(settings) == []


def test_a_segment_that_failed_is_named(broker: Broker, settings: Settings, tmp_path: Path) -> None:
    assert command(settings, "run", "--once").returncode == 0
    path = broker.segments("orders-0", 1)[0]
    (tmp_path / "store" / "orders-0").mkdir()
    (tmp_path / "store" / path.replace(".log", ".manifest.json")).write_text('{"version": 99}')
    assert command(settings, "run", "--once").returncode == 1
    assert any("failed for 1 segment" in line and path in line for line in problems(settings))


def test_what_is_quarantined_and_what_was_lost_is_told(broker: Broker, settings: Settings, tmp_path: Path) -> None:
    closed = broker.segments("orders-0", 2)
    fresh = broker.segments("payments-0", 2, age_hours=1)
    assert command(settings, "run", "--once").returncode == 0
    (tmp_path / "store" / closed[0]).write_bytes(b"damaged")
    assert command(settings, "verify", "--deep").returncode == 1
    for name in broker.triple(fresh[0]):
        (broker.root / name).unlink()
    quarantined, lost = problems(settings)
    assert "1 segment quarantined" in quarantined
    assert fresh[0] in lost
    assert command(settings, "run", "--once").returncode == 0
    # The catalog has forgotten the segment, and the record of it stays for a day.
    assert any(fresh[0] in line for line in problems(settings))
    assert told(settings)["lost_segments"] == 1


def test_a_daemon_that_is_gone_or_stands_still_is_told_within_seconds(
    broker: Broker, settings: Settings, tmp_path: Path
) -> None:
    broker.segments("orders-0", 2)
    with daemon(settings, tmp_path / "log") as running:
        running.wait_logged("cycle ended")
        running.wait_serving()
        assert problems(settings) == []
        found = told(settings)
        assert found["daemon"] == {
            "pid": running.process.pid, "host": socket.gethostname(), "api": running.api, "answers": True,
        }  # fmt: skip
        running.process.send_signal(signal.SIGSTOP)
        try:
            with within_seconds():
                (hung,) = problems(settings)
            assert f"process {running.process.pid}" in hung
            assert "does not answer" in hung
            for arguments in (["status"], ["plan"], ["ls"], ["restore", "orders-0", "-n"]):
                with within_seconds():
                    ended = command(settings, *arguments)
                assert ended.returncode == 0, ended.stderr
                assert "does not answer" in ended.stderr
                assert "orders-0" in ended.stdout or arguments == ["status"]
            with within_seconds():
                ended = command(settings, "archive", "orders-0")
            assert ended.returncode == 1
            assert "kill -CONT" in ended.stderr
        finally:
            running.process.send_signal(signal.SIGCONT)
        assert problems(settings) == []
        running.kill()
    gone = problems(settings)
    assert [line for line in gone if "the daemon is not running" in line] == gone != []
    assert "not running" in command(settings, "status").stdout


_starts: list[float] = []


@contextmanager
def within_seconds() -> Iterator[None]:
    """What is waited for within is told in 10 s; how long a process takes to start says more of the machine."""
    if not _starts:
        began = time.monotonic()
        # What a command may come to import, the SDK too: how much that is depends on the command and the store.
        subprocess.run([sys.executable, "-c", "import takhin_tiered.cli.doctor, takhin_tiered.store.s3"], check=True)
        _starts.append(time.monotonic() - began)
    started = time.monotonic()
    yield
    assert time.monotonic() - started - _starts[0] < 8


@contextmanager
def silent_server() -> Iterator[str]:
    """A server that takes connections, and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_a_store_that_never_answers_keeps_nobody_waiting(broker: Broker) -> None:
    broker.segments("orders-0", 2)
    with silent_server() as endpoint:
        settings = Settings(data_dir=broker.root, enabled=True, s3_bucket="bucket", s3_endpoint=endpoint, api_port=0)
        for arguments in (["status"], ["status", "--check"], ["plan"], ["ls"]):
            with within_seconds():
                ended = command(settings, *arguments)
            assert "Traceback" not in ended.stderr
        assert "does not answer within" in " ".join(command(settings, "status").stdout.split())


def healthy() -> dict[str, object]:
    broker = {
        "kind": "",
        "running": False,
        "bootstrap": "",
        "problem": "",
        "topics_known": 0,
        "compacted_partitions": 0,
    }
    counts = ("archived", "copied", "evicted", "expired", "postponed", "bytes_freed", "trimmed")
    sums = ("total", "hot", "warm", "cold", "archived", "future", "lost")
    return {
        **{f"{name}_segments": 0 for name in sums},
        **{f"{name}_size_bytes": 0 for name in ("total", "local", "archived")},
        "version": "", "mode": "move", "store": "s3://bucket", "data_dir": "", "data_dirs": [],
        "superseded_generations": 0, "broker": broker | {"idle_tail_topics": [], "file_problems": []},
        "store_reachable": True, "store_problem": "", "quarantined_segments": 0, "last_cycle_problem": "",
        "clock": {"problem": "", "ahead_seconds": 0},
        "last_cycle": {"started_at": None, "ended_at": None, "failures": [], **dict.fromkeys(counts, 0)},
        "enabled": True, "lost": [], "headroom_seconds": None, "disk_free_bytes": 1,
        "last_cycle_at": "1970-01-02T00:00:00+00:00", "cycle_interval_seconds": 3600.0, "cycle_running_seconds": None,
        "daemon": {"pid": 1, "host": "h", "api": "http://h", "answers": True}, "last_cycle_by": "daemon",
    }  # fmt: skip


DAY = 24 * HOUR


@pytest.mark.parametrize(
    ("change", "hours", "words"),
    [
        ({}, 2.0, ""),
        ({}, 2.6, "no cycle has ended for 2.6 h, and one is due every 60 minutes"),
        ({"cycle_running_seconds": 9000.0}, 2.6, ""),
        ({"headroom_seconds": 23 * HOUR}, 1.0, "the disk is full in 23.0 h"),
        ({"headroom_seconds": 25 * HOUR}, 1.0, ""),
        ({"disk_free_bytes": 0}, 1.0, "the disk of the data directory is full"),
        (
            {"clock": {"problem": "it jumped by 400 days", "ahead_seconds": 0}},
            1.0,
            "it jumped by 400 days. Until the clocks agree",
        ),
        ({"daemon": None, "last_cycle_by": "once"}, 1.0, ""),
        ({"daemon": None}, 1.0, "the daemon is not running"),
        ({"enabled": False, "lost": [{"segment_path": "a", "seen_at": None}]}, 99.0, ""),
    ],
)
def test_each_problem_has_its_line(change: dict[str, object], hours: float, words: str) -> None:
    found = list(problems_of(from_json(StatusHere, healthy() | change), DAY + hours * HOUR))
    assert len(found) == (1 if words else 0), found
    assert not words or words in found[0]


def test_a_disk_that_fills_up_between_cycles_is_told_without_a_daemon(broker: Broker, settings: Settings) -> None:
    """By the samples that each cycle leaves: here the one of an hour ago says that much more was free."""
    import sqlite3

    broker.segments("orders-0", 2)
    assert command(settings, "run", "--once").returncode == 0
    free = shutil.disk_usage(broker.root).free
    with sqlite3.connect(settings.state_dir / "catalog.db") as database:
        (text,) = database.execute("SELECT value FROM meta WHERE name = 'last cycle'").fetchone()
        kept = json.loads(text)
        kept["free"] = [[time.time() - HOUR, 2 * free]]
        database.execute("UPDATE meta SET value = ? WHERE name = 'last cycle'", (json.dumps(kept),))
    database.close()
    (line,) = problems(settings)
    assert "the disk is full in 1" in line or "the disk is full in 0.9" in line
    assert os.path.isdir(broker.root)
