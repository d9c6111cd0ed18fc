"""What a command imports: no library that it does not use. Names, and not times, which vary with the machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from takhin_tiered import Settings
from tests.support import Broker, archived_settings, command, environment

SDK = {"aioboto3", "aiobotocore", "boto3", "botocore"}
SERVER = {"fastapi", "starlette", "uvicorn"}
CLIENTS = {"aiohttp", "aiokafka", "httpx"}
DRAWING = {"rich", "pygments"}
LOGS = {"structlog"}
OF_THE_STORAGE = {"aiosqlite", "prometheus_client", "pydantic_settings", "sqlite3", "uvloop", "yaml"}
# As an installed program names itself, which the name of the variable for completion comes from.
PROGRAM = "import sys; sys.argv[0] = 'takhin-tiered'; from takhin_tiered.cli.start import main; main()"


@pytest.fixture
def settings(broker: Broker, tmp_path: Path) -> Settings:
    return archived_settings(broker, tmp_path / "store", 2)


def run(settings: Settings, *arguments: str, status: int = 0, **variables: str) -> tuple[str, set[str]]:
    """What a command prints, and the names of all that it imports."""
    ended = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", PROGRAM, *arguments],
        env=environment(settings) | variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert ended.returncode == status, ended.stderr[-2000:]
    lines = [line for line in ended.stderr.splitlines() if line.startswith("import time:")]
    return ended.stdout, {line.rpartition("|")[2].strip() for line in lines}


def libraries(imported: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in imported}


@pytest.mark.parametrize("option", ["--version", "-h"])
def test_the_version_and_the_list_of_commands_load_no_command(settings: Settings, option: str) -> None:
    _, imported = run(settings, option)
    assert "takhin_tiered.cli.main" in imported
    ours = {name for name in imported if name.startswith("takhin_tiered.")}
    assert ours <= {"takhin_tiered.errors", *(f"takhin_tiered.cli.{name}" for name in FACE)} | {"takhin_tiered.cli"}
    every = SDK | SERVER | CLIENTS | DRAWING | LOGS | OF_THE_STORAGE | {"pydantic", "asyncio"}
    assert libraries(imported) & every == set()


FACE = ("start", "stdout", "main", "lazy")


def test_a_status_loads_neither_the_sdk_nor_what_serves_draws_and_logs(settings: Settings) -> None:
    said, imported = run(settings, "status")
    assert "reachable" in said
    assert "takhin_tiered.tiered_storage" in imported
    assert libraries(imported) & (SDK | SERVER | CLIENTS | DRAWING | LOGS) == set()
    other_commands = {"doctor", "listing", "moves", "rebuild", "restore", "run", "settings", "verify", "progress"}
    assert imported & {f"takhin_tiered.cli.{name}" for name in other_commands} == set()


@pytest.mark.long
@pytest.mark.parametrize("name", ["plan", "ls"])
def test_a_table_loads_what_draws_it_and_nothing_else(settings: Settings, name: str) -> None:
    said, imported = run(settings, name)
    assert "orders-0/" in said
    assert "rich.table" in imported
    assert "rich.progress" not in imported
    assert libraries(imported) & (SDK | SERVER | CLIENTS | LOGS) == set()
    _, imported = run(settings, name, "--json")
    assert libraries(imported) & DRAWING == set()


def test_a_completion_of_commands_loads_none_of_them(settings: Settings) -> None:
    said, imported = run(
        settings, _TAKHIN_TIERED_COMPLETE="complete_bash", COMP_WORDS="takhin-tiered re", COMP_CWORD="1"
    )
    assert said.split() == ["restore", "read", "rebuild", "rekey"]
    assert not any(name.startswith("takhin_tiered.cli.re") for name in imported)
    said, _ = run(settings, _TAKHIN_TIERED_COMPLETE="complete_bash", COMP_WORDS="takhin-tiered ls --t", COMP_CWORD="2")
    assert said.split() == ["--tier"]


def test_the_first_line_of_a_log_has_the_form_that_was_asked_for() -> None:
    """From this program and from a library, although what forms the line is imported for it."""
    code = (
        "import logging, sys; from takhin_tiered import logs; logs.configure('info', 'json'); "
        "assert 'structlog' not in sys.modules; {}"
    )
    ours = "logs.logger().debug('passed over'); logs.logger().info('told', bytes=1)"
    for line, event in ((ours, '"event": "told"'), ("logging.getLogger('x').warning('heard')", '"event": "heard"')):
        ended = subprocess.run(
            [sys.executable, "-c", code.format(line)], capture_output=True, text=True, check=True, env=dict(os.environ)
        )
        (said,) = ended.stderr.splitlines()
        assert event in said
        assert said.startswith("{")


def test_rows_are_coloured_where_it_is_asked_for(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = command(settings, "doctor").stdout
    assert "ok       configuration" in plain
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    assert "\x1b[32mok" in command(settings, "doctor").stdout
