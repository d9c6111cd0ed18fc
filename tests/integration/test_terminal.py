"""What a terminal shows: tables at 80 columns, nothing cut in a pipe, progress in bytes, help that ends in examples."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from takhin_tiered import Settings
from tests.support import WARM, Broker, command, daemon, directory_settings, environment

pytestmark = pytest.mark.long

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.fixture
def settings(broker: Broker, tmp_path: Path) -> Settings:
    return directory_settings(broker, tmp_path / "store")


def on_terminal(settings: Settings, *arguments: str, width: int = 80, **variables: str) -> tuple[int, str]:
    """Exit status, and all that a real pseudo-terminal of that width got, as it came."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    clean = {name: value for name, value in environment(settings).items() if name not in {"COLUMNS", "LINES"}}
    process = subprocess.Popen(
        [sys.executable, "-m", "takhin_tiered", *arguments],
        env={**clean, "TERM": "xterm-256color", **variables},
        stdin=follower, stdout=follower, stderr=follower,
    )  # fmt: skip
    os.close(follower)
    got = b""
    while True:
        try:
            piece = os.read(leader, 65536)
        except OSError:  # the last process that had the terminal is gone
            break
        if not piece:
            break
        got += piece
    os.close(leader)
    return process.wait(60), got.decode()


def plain(text: str) -> str:
    return _CONTROL.sub("", text).replace("\r", "")


LONG = "a-topic-with-quite-a-long-name.of-the-payments-department.v2-117"


@pytest.mark.parametrize("width", [80, 200])
def test_tables_lose_nothing_that_matters(broker: Broker, settings: Settings, width: int) -> None:
    paths = [*broker.segments(LONG, 1), *broker.segments("orders-0", 2), *broker.segments("warm-0", 1, age_hours=WARM)]
    for arguments, words in ((["plan"], ["archive", "keep", "cold"]), (["ls"], ["local", "cold", "hot"])):
        status, output = on_terminal(settings, *arguments, width=width)
        lines = plain(output).splitlines()
        assert status == 0
        assert max(map(len, lines)) <= width
        assert all(Path(path).name in plain(output) for path in paths)
        assert all(word in plain(output) for word in words)
        assert LONG in "".join(plain(output).split()) or width < 100
        assert "…" not in output
    assert command(settings, "run", "--once").returncode == 0
    status, output = on_terminal(settings, "ls", "--partitions", width=width)
    assert max(map(len, plain(output).splitlines())) <= width
    assert all(words in plain(output) for words in (LONG, "orders-0", "0-119", "120-179", "~0"))
    if width == 200:
        output = on_terminal(settings, "ls", width=width)[1]
        assert all(path in plain(output) for path in paths)


@pytest.mark.parametrize("width", [80, 200])
def test_the_summaries_fit_the_terminal(broker: Broker, settings: Settings, width: int) -> None:
    path = broker.segments(LONG, 2)[0]
    assert command(settings, "run", "--once").returncode == 0
    told = {
        ("status",): ["ok", "hot", "cold", "2 segments", "there only", "━", "not running", "reachable", "unlinked"],
        ("cost",): ["STANDARD", "all on disk", "Saved: $", "put", "spent on restores and reads", "there is no budget"],
        ("history", path): ["copied", "evicted", "generation 1", "CORRELATION ID"],
        ("restore", "-n", LONG): ["It costs about $"],
    }
    for arguments, words in told.items():
        status, output = on_terminal(settings, *arguments, width=width)
        lines = plain(output).splitlines()
        assert status == 0, output
        assert max(map(len, lines)) <= width
        assert "…" not in output
        together = " ".join(plain(output).split())
        assert [word for word in words if word not in together] == [], arguments
    _, coloured = on_terminal(settings, "status", width=width)
    assert "\x1b[" in coloured
    piped = command(settings, "status").stdout
    assert "\x1b" not in piped
    assert "━" not in piped
    assert "segments        3: 1 hot, 0 warm, 2 cold" in piped


def test_a_problem_is_red_on_a_terminal(broker: Broker, settings: Settings) -> None:
    broker.segments("orders-0", 1)
    assert command(settings, "run", "--once").returncode == 0
    assert settings.directory_path is not None
    settings.directory_path.rename(settings.directory_path.with_name("away"))
    _, output = on_terminal(settings, "status", width=100)
    assert "\x1b[1;31mPROBLEM" in output
    assert "1 problem" in plain(output)


def test_watch_draws_again_and_ends_with_ctrl_c(broker: Broker, settings: Settings) -> None:
    broker.segments("orders-0", 1)
    assert command(settings, "run", "--once").returncode == 0
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 100, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "takhin_tiered", "status", "--watch", "--every", "0.2"],
        env={**environment(settings), "TERM": "xterm-256color"},
        stdin=follower, stdout=follower, stderr=follower, start_new_session=True,
    )  # fmt: skip
    os.close(follower)
    got = ""
    try:
        while got.count("Ctrl-C ends it") < 3:
            got += os.read(leader, 65536).decode(errors="replace")
        process.send_signal(signal.SIGINT)
        while True:
            got += os.read(leader, 65536).decode(errors="replace")
    except OSError:  # the last process that had the terminal is gone
        pass
    finally:
        process.kill()
        os.close(leader)
    assert process.wait(60) == 0, plain(got)
    assert "Traceback" not in got
    # The whole terminal, which is given back.
    assert got.index("\x1b[?1049h") < got.rindex("\x1b[?1049l")


@pytest.mark.parametrize("with_it", [[], ["--json"], ["--check"]], ids=" ".join)
def test_watch_needs_a_terminal(settings: Settings, with_it: list[str]) -> None:
    refused = command(settings, "status", "--watch", *with_it)
    assert refused.returncode == 2
    assert "--watch draws on a terminal" in " ".join(refused.stderr.replace("│", " ").split())


def test_a_pipe_gets_every_path_on_one_line(broker: Broker, settings: Settings) -> None:
    (path,) = broker.segments(LONG, 1)
    for arguments in (["plan"], ["ls"], ["restore", "-n", LONG]):
        lines = command(settings, *arguments).stdout.splitlines()
        assert any(path in line for line in lines) or arguments[0] == "restore"
    assert "\x1b" not in command(settings, "plan").stdout


def test_no_color_is_honoured(broker: Broker, settings: Settings) -> None:
    _, coloured = on_terminal(settings, "doctor")
    assert "\x1b[32m" in coloured
    _, without = on_terminal(settings, "doctor", NO_COLOR="1")
    assert "\x1b[32m" not in without


def test_one_cycle_on_a_terminal_ends_in_a_summary(broker: Broker, settings: Settings) -> None:
    closed = broker.segments("orders-0", 3)
    status, output = on_terminal(settings, "run", "--once", width=120)
    assert status == 0
    assert "{" not in plain(output)
    assert "3 segments archived, 0 copied, 3 evicted" in plain(output)
    assert "segments 0" in plain(output)  # the bar, before the first segment
    assert not any(broker.on_disk(path) for path in closed)
    assert "Nothing to do" in plain(on_terminal(settings, "run", "--once", width=120)[1])
    # Not on a terminal it is a log.
    assert json.loads(command(settings, "run", "--once").stderr.splitlines()[-1])


@pytest.mark.parametrize("held", [False, True])
def test_progress_is_told_in_bytes(broker: Broker, settings: Settings, tmp_path: Path, held: bool) -> None:
    broker.segments("orders-0", 2, age_hours=WARM, size=300_000)

    def check() -> None:
        for arguments in (["archive", "orders-0"], ["verify", "--deep"], ["restore", "orders-0"], ["rebuild"]):
            status, output = on_terminal(settings, *arguments, width=120)
            assert status == 0, plain(output)
            assert re.search(r"[0-9.]+/[0-9?.]+ [KMk]i?B", plain(output)) or arguments == ["rebuild"], plain(output)

    if not held:
        check()
        return
    with daemon(settings, tmp_path / "log") as running:
        running.wait_logged("cycle ended")
        running.wait_serving()
        check()


EVERY = [
    [], ["run"], ["plan"], ["status"], ["ls"], ["archive"], ["restore"], ["verify"], ["rebuild"], ["doctor"], ["demo"],
    ["cost"], ["history"], ["config"], ["config", "check"], ["config", "show"], ["config", "example"],
]  # fmt: skip


def test_every_help_ends_in_examples() -> None:
    """Without a process for each: the texts are the same."""
    from typer.testing import CliRunner

    from takhin_tiered.cli.main import app

    for arguments in EVERY:
        for option in ("-h", "--help"):
            output = CliRunner().invoke(app, [*arguments, option], terminal_width=80).output
            end = output[output.index("Examples:") :].splitlines()[1:]
            assert end, arguments
            assert all(line.strip().startswith("takhin-tiered ") for line in end if line.strip())
            assert max(map(len, output.splitlines())) <= 80


def test_version_and_completion(settings: Settings) -> None:
    from takhin_tiered import __version__

    assert command(settings, "--version").stdout == f"takhin-tiered {__version__}\n"
    assert "--install-completion" in command(settings, "-h").stdout


def test_the_program_in_the_documents_runs_as_a_file(broker: Broker, settings: Settings, tmp_path: Path) -> None:
    closed = broker.segments("orders-0", 2)
    page = (Path(__file__).parents[2] / "docs/http.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "program.py").write_text(code)
    (tmp_path / "takhin.yaml").write_text(
        f"storage: {{data: {{dir: {broker.root}}}, tiered: {{enabled: true, directory.path: {tmp_path / 'store'}}}}}"
    )
    ended = subprocess.run(
        [sys.executable, "program.py"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert closed[0] in ended.stdout
    assert f"{len(broker.files[closed[0]])} chunk 4096" in ended.stdout
    assert not any(broker.on_disk(path) for path in closed)
