"""Results that cannot be written: a full disk, a reader that left, closed descriptors. Never a traceback."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from takhin_tiered import Settings
from tests.support import Broker, archived_settings, command, directory_settings, environment, wait_until

pytestmark = pytest.mark.long

COMMANDS = [
    ("--help",), ("ls",), ("ls", "--json"), ("status",), ("plan", "--json"), ("verify", "--deep"), ("config", "show"),
    ("config", "check"), ("restore", "*", "-n"),
]  # fmt: skip
Shell = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def settings(broker: Broker, tmp_path: Path) -> Settings:
    return archived_settings(broker, tmp_path / "store", 3)


@pytest.fixture
def shell(settings: Settings) -> Shell:
    """A command of ours in a shell, with these redirections behind it; bash's status of the command itself."""

    def run(*arguments: str, redirected: str) -> subprocess.CompletedProcess[str]:
        words = " ".join(f"'{word}'" for word in (sys.executable, "-m", "takhin_tiered", *arguments))
        script = f"{words} {redirected}; exit ${{PIPESTATUS[0]}}"
        return subprocess.run(
            ["bash", "-c", script], env=environment(settings), capture_output=True, text=True, check=False, timeout=100
        )

    return run


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_a_full_output_is_told_in_one_line(shell: Shell, arguments: tuple[str, ...]) -> None:
    ended = shell(*arguments, redirected=">/dev/full")
    assert ended.returncode == 1
    told = [line for line in ended.stderr.splitlines() if line.startswith("Error")]
    assert told == ["Error: standard output cannot be written: No space left on device"]
    assert "Traceback" not in ended.stderr
    assert "Exception" not in ended.stderr


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_a_closed_output_is_told_in_one_line(shell: Shell, arguments: tuple[str, ...]) -> None:
    ended = shell(*arguments, redirected=">&-")
    assert ended.returncode == 1
    assert "Error: standard output cannot be written: Bad file descriptor" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_a_reader_that_left_is_told_nothing(shell: Shell, arguments: tuple[str, ...]) -> None:
    ended = shell(*arguments, redirected="| true")
    assert (ended.returncode, ended.stderr) == (1, "")


@pytest.mark.parametrize("redirected", [">/dev/full", ">&-", ">&- 2>&- <&-", "| true", "> /dev/full 2>&1"])
def test_work_is_done_whoever_reads_of_it(shell: Shell, broker: Broker, tmp_path: Path, redirected: str) -> None:
    archived = [path for path in map(str, broker.files) if path.endswith(".log") and not broker.on_disk(path)]
    assert len(archived) == 3
    ended = shell("restore", "*", redirected=redirected)
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert all(broker.is_whole(path) for path in archived)


@pytest.mark.parametrize("redirected", ["2>/dev/full", "2>&-", ">&- 2>&-", ">/dev/full 2>&1"])
def test_an_exit_status_outlives_its_words(shell: Shell, redirected: str) -> None:
    assert shell("--config", "/nowhere", "status", redirected=redirected).returncode == 2


def test_no_file_gets_the_number_of_a_closed_stream(
    shell: Shell, settings: Settings, broker: Broker, tmp_path: Path
) -> None:
    """What is printed would stand in it: in the catalog, or in a segment."""
    (tmp_path / "catalog before").write_bytes((settings.state_dir / "catalog.db").read_bytes()[:100])
    ended = shell("run", "--once", redirected="<&- >&- 2>&-")
    assert ended.returncode == 0
    for file in filter(Path.is_file, settings.state_dir.rglob("*")):
        assert b"cycle ended" not in file.read_bytes()
    assert command(settings, "verify", "--deep").returncode == 0
    assert os.listdir(broker.root) == ["orders-0"]


def test_a_reader_that_stands_still_holds_no_daemon_up(broker: Broker, tmp_path: Path) -> None:
    """Its pipe is full, and open: the lines are dropped, and the work goes on."""
    closed = [path for number in range(40) for path in broker.segments(f"orders-{number}", 1)]
    settings = directory_settings(broker, tmp_path / "store", log_level="debug", archive_interval_minutes=0.02)
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    process = subprocess.Popen([sys.executable, "-m", "takhin_tiered", "run"], env=environment(settings), stderr=writer)
    try:
        wait_until(lambda: not any(broker.on_disk(path) for path in closed), what="the archive, whoever reads the log")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert b'"event"' in os.read(reader, 4096)
    finally:
        process.kill()
        process.wait()
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize("redirected", [">/dev/full", ">&-"])
def test_doctor_ends_with_1_where_nobody_can_read_it(shell: Shell, redirected: str) -> None:
    ended = shell("doctor", redirected=redirected)
    assert (ended.returncode, ended.stderr.count("standard output cannot be written")) == (1, 1)
