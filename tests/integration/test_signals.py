"""Signals: of the daemon, of one cycle, of commands; as any process, and as the first one of a container."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from takhin_tiered import Settings
from tests.support import Broker, Daemon, command, daemon, directory_settings, environment, wait_until

pytestmark = pytest.mark.long
# Bytes: the owner's and the store's own records take some hundred.
LARGEST_RECORD = 64 << 10


def lines(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]


def events(log: Path, event: str) -> list[dict[str, Any]]:
    return [line for line in lines(log) if line["event"] == event]


def write(config: Path, broker: Broker, store: Path, **keys: Any) -> None:
    store.mkdir(exist_ok=True)
    given = {
        "storage.data.dir": str(broker.root),
        "storage.tiered.enabled": True,
        "storage.tiered.directory.path": str(store),
        "storage.tiered.api.port": 0,
        **{name.replace("__", "."): value for name, value in keys.items()},
    }
    config.write_text("\n".join(f"{key}: {json.dumps(value)}" for key, value in given.items()))


@contextmanager
def configured(broker: Broker, tmp_path: Path, **keys: Any) -> Iterator[tuple[Daemon, Path]]:
    """A daemon whose settings stand in a file, and in no variable."""
    config = tmp_path / "takhin.yaml"
    write(config, broker, tmp_path / "store", **keys)
    with daemon(Settings(data_dir=broker.root), tmp_path / "log", "--config", str(config), "run") as running:
        running.wait_serving()
        yield running, config


def stats(running: Daemon, token: str) -> int:
    headers = {"Authorization": f"Bearer {token}"}
    return running.request("GET", "/api/v1/tiered/stats", headers=headers).status_code


def test_a_hangup_applies_what_can_be_and_names_what_needs_a_restart(broker: Broker, tmp_path: Path) -> None:
    path = broker.segments("orders-0", 1, age_hours=5)[0]
    with configured(broker, tmp_path, storage__tiered__api__token="old") as (running, config):
        running.wait_logged('"event": "cycle ended"')
        assert broker.is_whole(path)
        assert (stats(running, "old"), stats(running, "new")) == (200, 401)
        write(
            config,
            broker,
            tmp_path / "store",
            storage__tiered__api__token="new",
            storage__tiered__cold__age__hours=2,
            storage__tiered__warm__age__hours=1,
            storage__tiered__archive__interval__minutes=0.001,
            storage__tiered__restore__reserve__mb=1,
            storage__tiered__s3__region="eu-central-1",
            logging__level="error",
        )
        running.process.send_signal(signal.SIGHUP)
        running.wait_logged("configuration reloaded")
        # By the new ages, and at the new interval.
        wait_until(lambda: not broker.on_disk(path), what="the archive of what is cold by now")
        assert (stats(running, "old"), stats(running, "new")) == (401, 200)
        cycles = len(events(tmp_path / "log", "cycle ended"))
        (reloaded,) = events(tmp_path / "log", "configuration reloaded")
        assert set(reloaded["applied"]) == {
            "storage.tiered.api.token", "storage.tiered.cold.age.hours", "storage.tiered.warm.age.hours",
            "storage.tiered.archive.interval.minutes", "storage.tiered.restore.reserve.mb", "logging.level",
        }  # fmt: skip
        assert reloaded["needs_restart"] == ["storage.tiered.s3.region"]
        assert running.stop() == 0
        # At the level of errors the later cycles are not told.
        assert len(events(tmp_path / "log", "cycle ended")) == cycles == 1
        assert "old" not in [reloaded, *reloaded["applied"]]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("storage: [", "cannot be reloaded"),
        ("storage.tiered.cold.age.hour: 2", "nearest known key"),
        ("storage.tiered.warm.age.hours: 900", "must be less than"),
        (None, "cannot be reloaded"),
    ],
)
def test_a_broken_configuration_leaves_the_one_before_in_effect(
    broker: Broker, tmp_path: Path, content: str | None, told: str
) -> None:
    with configured(broker, tmp_path, storage__tiered__api__token="old") as (running, config):
        if content is None:
            config.unlink()
        else:
            config.write_text(config.read_text().replace('"old"', '"new"') + f"\n{content}\n")
        running.process.send_signal(signal.SIGHUP)
        running.wait_logged("the previous one stays in effect")
        assert told in (tmp_path / "log").read_text()
        assert stats(running, "old") == 200
        assert running.stop() == 0


def test_settings_that_agree_only_after_a_restart_are_not_applied_in_part(broker: Broker, tmp_path: Path) -> None:
    """Without the token the address, which stays until then, would be open to others."""
    with configured(broker, tmp_path, storage__tiered__api__token="old", storage__tiered__api__host="0.0.0.0") as (
        running,
        config,
    ):
        write(config, broker, tmp_path / "store", storage__tiered__api__host="127.0.0.1")
        running.process.send_signal(signal.SIGHUP)
        running.wait_logged("the new configuration needs a restart")
        assert (stats(running, "old"), stats(running, "none")) == (200, 401)
        assert running.stop() == 0


def test_systemd_is_told_of_a_reload(broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(address)
        systemd.settimeout(20)
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        with daemon(directory_settings(broker, tmp_path / "store"), tmp_path / "log") as running:
            heard = [systemd.recv(4096).decode()]
            assert "READY=1" in heard[0]
            running.process.send_signal(signal.SIGHUP)
            heard = [systemd.recv(4096).decode() for _ in range(2)]
            assert heard[0].startswith("RELOADING=1\nMONOTONIC_USEC=")
            assert heard[1] == "READY=1"
            assert running.stop() == 0


def test_a_dump_names_what_is_moved_and_where_tasks_wait(broker: Broker, tmp_path: Path) -> None:
    path = broker.segments("orders-0", 1, size=3_000_000)[0]
    settings = directory_settings(broker, tmp_path / "store", throttle_upload_mbps=0.5, log_level="error")
    with daemon(settings, tmp_path / "log") as running:
        running.wait_serving()

        def seen() -> list[dict[str, Any]]:
            running.process.send_signal(signal.SIGUSR1)
            running.wait_logged("current work")
            return [line for line in events(tmp_path / "log", "in flight") if line["bytes_done"]]

        found = wait_until(seen, what="a segment in flight, and bytes of it")[0]
        assert (found["verb"], found["segment"]) == ("archive", path)
        assert 0 < found["bytes_done"] < 3_100_000
        assert found["since"].startswith("20")
        work = events(tmp_path / "log", "current work")[-1]
        assert (work["store"], work["store_problem"], work["cycle_running"]) == (str(tmp_path / "store"), "", True)
        assert work["in_flight"] == 1
        assert {"queue", "last_cycle"} <= set(work)
        assert any("_Daemon._cycles" in line["waits_in"] for line in events(tmp_path / "log", "task"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("arguments", [("restore", "*"), ("run", "--once")], ids=" ".join)
def test_a_signal_ends_a_command_in_order(
    broker: Broker, tmp_path: Path, arguments: tuple[str, ...], number: signal.Signals
) -> None:
    closed = broker.segments("orders-0", 2, size=4_000_000)
    settings = directory_settings(broker, tmp_path / "store")
    if arguments[0] == "restore":
        assert command(settings, "run", "--once").returncode == 0
    slow = settings.model_copy(update={"throttle_download_mbps": 0.5, "throttle_upload_mbps": 0.5})
    with daemon(slow, tmp_path / "log", *arguments) as running:
        wait_until(lambda: unfinished(tmp_path), what="bytes on their way")
        running.process.send_signal(number)
        if arguments[0] == "run":
            # What is moved has its time; nobody waits for it here.
            running.wait_logged('"event": "signal"')
            running.process.send_signal(number)
        assert running.process.wait(15) == 1
    assert "Traceback" not in (tmp_path / "log").read_text()
    assert not list(broker.root.rglob("*.takhin-tmp"))
    assert all(broker.is_whole(path) or not broker.on_disk(path) for path in closed)
    if arguments[0] == "restore":
        assert f"interrupted by {number.name}" in (tmp_path / "log").read_text()


def unfinished(home: Path) -> list[Path]:
    """Segments of restores and archives on their way, below any directory: larger than the store's own records."""
    found = []
    for path in (*home.rglob("*.takhin-tmp"), *home.rglob(".takhin-tmp/*")):
        with suppress(FileNotFoundError):
            if not path.is_dir() and path.stat().st_size > LARGEST_RECORD:
                found.append(path)
    return found


def test_a_command_that_was_started_to_outlive_its_terminal_does(broker: Broker, tmp_path: Path) -> None:
    path = broker.segments("orders-0", 1, size=4_000_000)[0]
    settings = directory_settings(broker, tmp_path / "store", throttle_upload_mbps=0.5)
    with (tmp_path / "log").open("w") as log:
        started = subprocess.Popen(
            ["nohup", sys.executable, "-m", "takhin_tiered", "run", "--once"],
            env=environment(settings), stdout=log, stderr=log, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    wait_until(lambda: unfinished(tmp_path / "store"), what="an upload")
    started.send_signal(signal.SIGHUP)
    assert started.wait(30) == 0
    assert broker.on_disk(path) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes a container's process namespace")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    ("arguments", "status"), [(("run",), 0), (("verify", "--deep"), 1), (("restore", "*"), 1)], ids=str
)
def test_the_first_process_of_a_container_ends_on_a_signal(
    broker: Broker, tmp_path: Path, arguments: tuple[str, ...], status: int, number: int
) -> None:
    """The kernel passes a signal over that this process left as it is."""
    for topic in range(3):
        broker.segments(f"orders-{topic}", 1, size=6_000_000)
    settings = directory_settings(broker, tmp_path / "store")
    assert command(settings, "run", "--once").returncode == 0
    slow = settings.model_copy(update={"throttle_download_mbps": 0.2})
    variables = {**environment(slow), "TAKHIN_STORAGE_TIERED_THROTTLE_DOWNLOAD_MBPS": "0.2"}
    program = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", sys.executable, "-m", "takhin_tiered"]
    with (tmp_path / "log").open("w") as log:
        container = subprocess.Popen([*program, *arguments], env=variables, stdout=log, stderr=log)

    def child() -> int:
        found = Path(f"/proc/{container.pid}/task/{container.pid}/children").read_text().split()
        if not found:
            return 0
        lines = Path(f"/proc/{found[0]}/status").read_text().splitlines()
        (caught,) = (int(line.split()[1], 16) for line in lines if line.startswith("SigCgt"))
        return int(found[0]) if caught >> (signal.SIGUSR1 - 1) & 1 else 0

    try:
        pid = wait_until(child, what="the handlers of the process")
        began = time.monotonic()
        os.kill(pid, number)
        assert container.wait(12) == status
        assert time.monotonic() - began < 11
    finally:
        container.kill()
        container.wait()
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_a_second_signal_ends_a_command_at_once(broker: Broker, tmp_path: Path) -> None:
    """It waits for a thread that waits for the throttle, for half a minute."""
    broker.segments("orders-0", 1, size=2_000_000)
    settings = directory_settings(broker, tmp_path / "store")
    assert command(settings, "run", "--once").returncode == 0
    slow = settings.model_copy(update={"throttle_download_mbps": 0.01})
    with daemon(slow, tmp_path / "log", "restore", "*") as running:
        wait_until(lambda: unfinished(broker.root), what="bytes on their way")
        running.process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        wait_until(lambda: time.monotonic() - began > 0.3)
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(5) == 1
        assert time.monotonic() - began < 5
