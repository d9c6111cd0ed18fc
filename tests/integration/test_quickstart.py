"""The quick starts of README.md and docs/quickstart.md, as they stand there, in a directory like a clone.

Only ports differ, and `make trial` is what it runs, without the installation.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.support import find_minio, find_program, free_port, wait_until

ROOT = Path(__file__).parents[2]
QUICKSTART = (ROOT / "docs/quickstart.md").read_text()
FIRST = "orders-0/00000000000000000000.log"


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """With the program in `.venv`, and the script of `make trial`."""
    for name in (".ci", ".venv/bin"):
        (tmp_path / name).mkdir(parents=True)
    shutil.copy(ROOT / ".ci/trial.sh", tmp_path / ".ci")
    program = tmp_path / ".venv/bin/takhin-tiered"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m takhin_tiered "$@"\n')
    program.chmod(0o755)
    (tmp_path / ".venv/bin/activate").write_text(f"PATH={tmp_path}/.venv/bin:$PATH\n")
    return tmp_path


@pytest.fixture
def variables(clone: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "TAKHIN_", "MINIO_"))}
    port = str(free_port())
    return {**kept, "PYTHONPATH": str(ROOT), "HOME": str(clone), "TAKHIN_STORAGE_TIERED_API_PORT": port}


@contextmanager
def trial(clone: Path, variables: dict[str, str]) -> Iterator[None]:
    """`make trial` until Ctrl-C; then nothing runs any more."""
    port, servers = free_port(), str(Path(find_program("ministack")).parent)
    log = clone / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [clone / ".ci/trial.sh", ".venv/bin", servers, str(port)],
            cwd=clone, env=variables, stdout=file, stderr=file, start_new_session=True,
        )  # fmt: skip

    def cycled() -> bool:
        assert process.poll() is None, log.read_text()
        return "cycle ended" in log.read_text()

    try:
        wait_until(cycled, seconds=90, what="the end of the first cycle")
        yield
    finally:
        os.killpg(process.pid, signal.SIGINT)
        status = process.wait(60)
    assert status == 0, log.read_text()
    assert "stopped" in log.read_text()
    assert subprocess.run(["curl", "-s", f"http://127.0.0.1:{port}"], check=False).returncode == 7  # refused


def shell(script: str, clone: Path, variables: dict[str, str]) -> str:
    """What the script prints. All that it leaves running is ended."""
    printed = clone / "printed"
    with printed.open("wb") as file:
        process = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=clone, env=variables, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True,
        )  # fmt: skip
    try:
        status = process.wait(120)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert status == 0, printed.read_text()
    return printed.read_text()


@pytest.mark.long
def test_the_quick_start_archives_reads_and_restores(clone: Path, variables: dict[str, str]) -> None:
    before = QUICKSTART.partition("## With MinIO")[0]
    start, *scripts = re.findall(r"```sh\n(.*?)```", before, re.DOTALL)
    assert start == "make trial\n"
    assert ".ci/trial.sh $(BIN) .make/servers/bin $(S3_PORT)" in (ROOT / "Makefile").read_text()
    file = clone / "trial/data" / FIRST
    assert "21 segments, 12 of them in the archive only" in before
    with trial(clone, variables):
        assert "Segments 21 12 in the archive only" in dashboard(clone, variables)
        assert not file.exists()
        said = shell("".join(scripts), clone, variables)
        assert file.exists()
    assert said.count(f"{FIRST} cold archived") == 1
    assert '"offset": 1000,' in said
    values = [line for line in said.splitlines() if line.startswith('{"order"')]
    assert [json.loads(value)["order"] for value in values] == [1000]
    assert "0 bad" in said


def dashboard(clone: Path, variables: dict[str, str]) -> str:
    """The first page, as a browser gets it, without what only lays it out."""
    port = variables["TAKHIN_STORAGE_TIERED_API_PORT"]
    page = shell(f"curl -sS --fail-with-body http://127.0.0.1:{port}/", clone, variables)
    return " ".join(re.sub(r"<[^>]+>", " ", page).split())


@pytest.mark.long
def test_the_readme_archives_reads_and_restores(clone: Path, variables: dict[str, str]) -> None:
    (script,) = re.findall(r"```\n(\. \.venv/bin/activate\n.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    with trial(clone, variables):
        said = shell(script, clone, variables)
        assert (clone / "trial/data" / FIRST).exists()
        refused = "if .venv/bin/takhin-tiered demo --segments trial/data; then exit 1; fi"
        assert "trial/data exists" in shell(refused, clone, variables)
    assert '{"order": 1000' in said
    assert "0 bad" in said


@pytest.mark.skipif(find_minio() is None, reason="there is no MinIO")
def test_the_quick_start_with_minio(clone: Path, variables: dict[str, str]) -> None:
    scripts = re.findall(r"```sh\n(.*?)```", QUICKSTART.partition("## With MinIO")[2], re.DOTALL)
    (clone / ".venv/bin/minio").symlink_to(str(find_minio()))
    script = "PATH=$PWD/.venv/bin:$PATH\n" + "".join(scripts)
    said = shell(script.replace(":9000", f":{free_port()}"), clone, variables)
    assert "nothing failed" in said
    assert said.count(" archived ") == 12
