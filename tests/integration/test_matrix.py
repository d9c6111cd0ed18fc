"""Every command, as whoever runs it, whatever the daemon and the store do: no traceback, and words that help.

`make test` has a sample, `make matrix` all of it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from takhin_tiered import Settings
from tests.support import Broker, Bucket, Daemon, daemon, environment, free_port, store_settings, wait_until

pytestmark = pytest.mark.long
ALL = os.environ.get("TAKHIN_TEST_MATRIX") == "full"
ROOT = os.geteuid() == 0
BROKER_USER, OTHER_USER = 4242, 4343
# Read-only ones, which end in seconds whatever hangs; a closed segment is PATH.
LOOKING = [
    ["plan"], ["plan", "--json"], ["status"], ["status", "--json"], ["status", "--check"], ["ls"], ["ls", "--problem"],
    ["ls", "--partitions"], ["archive", "PATH", "-n"], ["restore", "PATH", "-n"], ["verify"], ["config", "show"],
    ["config", "check"], ["config", "check", "--connect"], ["config", "example"], ["doctor"], ["--version"],
    ["ls", "-h"],
]  # fmt: skip
CHANGING = [["archive", "PATH"], ["restore", "PATH"], ["verify", "--deep"], ["rebuild"], ["run", "--once"]]
USERS = ["broker", "other", "stranger", "root"] if ROOT else ["broker"]
DAEMONS = ["down", "up", "stopped", "hung"]
STORES = ["up", "down", "wrong"]
SAMPLE = [("down", "up"), ("stopped", "down"), ("up", "wrong"), ("hung", "up")]
# The daemon's loop stands still as soon as it has archived something.
HANGING = (
    "-c",
    """
import sys, time
from takhin_tiered import points
from takhin_tiered.cli.main import main
points.hook = lambda point: time.sleep(600) if point == 'archive.committed' else None
main()
""",
)


@dataclass
class Place:
    """A broker's directory of its own user, in a directory that others may enter."""

    broker: Broker
    settings: Settings
    path: str
    daemon: Daemon | None

    def run(self, user: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        told = [self.path if argument == "PATH" else argument for argument in arguments]
        number = {"broker": BROKER_USER, "root": 0}.get(user, OTHER_USER)
        program = ["-m", "tests.integration.other_user", str(number)] if ROOT else ["-m", "takhin_tiered"]
        for each in (self.broker.root, self.settings.state_dir):
            if each.exists() and ROOT:
                each.chmod(0o700 if user == "stranger" else 0o755)
        variables = environment(self.settings) | {"HOME": "/nonexistent", "COLUMNS": "200"}
        return subprocess.run(
            [sys.executable, *program, *told],
            env=variables, capture_output=True, text=True, check=False, timeout=100,
        )  # fmt: skip


@contextmanager
def made(bucket: Bucket, daemon_state: str, store_state: str) -> Iterator[Place]:
    root = Path(tempfile.mkdtemp(prefix="takhin-matrix-"))
    root.chmod(0o755)
    broker = Broker(root / "data")
    closed = broker.segments("orders-0", 3)
    settings = store_settings(broker, bucket, state_path=root / "state")
    if store_state == "down":
        settings = store_settings(
            broker, bucket, state_path=root / "state", s3_endpoint=f"http://127.0.0.1:{free_port()}"
        )
    elif store_state == "wrong":
        settings = store_settings(broker, bucket, state_path=root / "state", s3_bucket="no-such-bucket-here")
    (root / "state").mkdir()
    if ROOT:
        for each in [root / "state", *(root / "data").rglob("*"), root / "data"]:
            os.chown(each, BROKER_USER, BROKER_USER)
    try:
        with ExitStack() as stack:
            running = None
            if daemon_state != "down":
                program = HANGING if daemon_state == "hung" and store_state == "up" else ()
                running = stack.enter_context(daemon(settings, root / "log", program=program))
                running.wait_serving()
                if program:
                    wait_until(lambda: bucket.manifests(), what="the point at which the daemon hangs")
                elif daemon_state in {"stopped", "hung"}:
                    running.process.send_signal(signal.SIGSTOP)
                if ROOT:
                    for each in (root / "state").iterdir():
                        os.chown(each, BROKER_USER, BROKER_USER)
            yield Place(broker, settings, closed[0], running)
    finally:
        shutil.rmtree(root)


def cases() -> list[tuple[str, str, list[tuple[str, list[str]]]]]:
    """Of the sample each command is run once in all, and by another user each time."""
    every = []
    for daemon_state in DAEMONS:
        for store_state in STORES:
            if ALL:
                runs = [(user, command) for user in USERS for command in LOOKING + CHANGING]
            elif (daemon_state, store_state) in SAMPLE:
                at = SAMPLE.index((daemon_state, store_state))
                commands = [*LOOKING[at::4], *CHANGING[at::4]]
                runs = [(USERS[(at + number) % len(USERS)], each) for number, each in enumerate(commands)]
            else:
                continue
            every.append((daemon_state, store_state, runs))
    return every


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("daemon_state", "store_state", "runs"), cases(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_no_traceback_and_words_that_help(
    bucket: Bucket, daemon_state: str, store_state: str, runs: list[tuple[str, list[str]]]
) -> None:
    wrong = []
    with made(bucket, daemon_state, store_state) as place:
        began = time.monotonic()
        place.run("root", "--version")
        start = time.monotonic() - began
        for user, command in runs:
            began = time.monotonic()
            ended = place.run(user, *command)
            took = time.monotonic() - began - start
            output = ended.stdout + ended.stderr
            complaints = []
            if "Traceback" in output or "unexpected error" in output:
                complaints.append("a traceback")
            if ended.returncode not in {0, 1, 2}:
                complaints.append(f"exit {ended.returncode}")
            if command in LOOKING and took > 10:
                complaints.append(f"{took:.1f} s")
            errors = [line for line in ended.stderr.splitlines() if line.startswith("Error:")]
            if ended.returncode and not output.strip():
                complaints.append("no word")
            complaints += [f"no advice in {line!r}" for line in errors if ". " not in line]
            if "move catalog.db" in output:
                complaints.append("advice to move the catalog away")
            if complaints:
                wrong.append(f"{user}: {' '.join(command)}: {', '.join(complaints)}\n{output[-1500:]}")
    assert not wrong, "\n".join(wrong)


def test_a_full_state_disk_is_no_damage(broker: Broker, tmp_path: Path) -> None:
    """On a small file system of its own, which only root may mount."""
    small = tmp_path / "small"
    small.mkdir()
    mounted = ROOT and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)], check=False, capture_output=True
    ).returncode == 0  # fmt: skip
    if not mounted:
        pytest.skip("no file system can be mounted here")
    try:
        broker.segments("orders-0", 2)
        store = tmp_path / "store"
        store.mkdir()
        settings = Settings(
            data_dir=broker.root, enabled=True, directory_path=store, state_path=small / "state", api_port=0
        )
        place = Place(broker, settings, "orders-0/00000000000000000000.log", None)
        assert place.run("root", "run", "--once").returncode == 0
        with (small / "filler").open("wb", buffering=0) as file:
            while True:
                try:
                    file.write(b"x" * 512)
                except OSError:
                    break
        for command in (["status"], ["ls"], ["plan"], ["run", "--once"], ["rebuild"], ["archive", "orders-0"]):
            ended = place.run("root", *command)
            output = ended.stdout + ended.stderr
            assert "Traceback" not in output
            assert "unexpected error" not in output
            assert "move catalog.db" not in output
            assert "earlier release" not in output
            assert ended.returncode == 0 or "Make room" in output, output
    finally:
        subprocess.run(["umount", str(small)], check=True)


@pytest.mark.parametrize("content", [b"garbage" * 2000, b"\0" * 8192, b""], ids=["garbage", "zeros", "empty"])
def test_a_catalog_of_garbage_is_called_damaged(broker: Broker, tmp_path: Path, content: bytes) -> None:
    broker.segments("orders-0", 2)
    (tmp_path / "store").mkdir()
    settings = Settings(data_dir=broker.root, enabled=True, directory_path=tmp_path / "store", api_port=0)
    place = Place(broker, settings, "", None)
    assert place.run("root", "run", "--once").returncode == 0
    for file in settings.state_dir.iterdir():
        if file.name.startswith("catalog.db"):
            file.write_bytes(content)
    for command in (["status"], ["plan"]):
        ended = place.run("root", *command)
        assert ended.returncode == 1
        assert "earlier release" not in ended.stderr
        assert ("is damaged" if content else "is empty") in ended.stderr
        assert "rebuild" in ended.stderr
    if content:
        for file in settings.state_dir.iterdir():
            if file.name.startswith("catalog.db"):
                file.unlink()
    assert place.run("root", "rebuild").returncode == 0
    assert "2 in the archive only" in place.run("root", "status").stdout


def test_what_a_library_logs_comes_without_its_traceback(broker: Broker, bucket: Bucket) -> None:
    """The SDK reports a token file that is not there by way of its log."""
    settings = store_settings(broker, bucket)
    variables = environment(settings) | {
        "AWS_WEB_IDENTITY_TOKEN_FILE": "/nope",
        "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/x",
    }
    del variables["AWS_ACCESS_KEY_ID"], variables["AWS_SECRET_ACCESS_KEY"]
    for arguments in (["status"], ["doctor"], ["verify"]):
        ended = subprocess.run(
            [sys.executable, "-m", "takhin_tiered", *arguments],
            env=variables, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert "Traceback" not in ended.stderr
        assert "unexpected error" not in ended.stderr
        assert ended.returncode in ({0} if arguments == ["status"] else {1})
