"""What the previous release archived is read, verified and restored, and keeps its form until something changes.

``archive-v1.tar.xz`` is what commit b32a4a4 made in mode move of a topic that Kafka 3.9.1 wrote, with every
codec, headers, and a committed and an aborted transaction: Kafka's directories, the store, the catalog
database, and in ``expected.json`` the SHA-256 of each file as it was before.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import unpack

ARCHIVE = Path(__file__).parent / "archive-v1.tar.xz"


@pytest.fixture
def previous(tmp_path: Path) -> dict[str, Any]:
    """The archive, unpacked; returns what is expected of it."""
    unpack(ARCHIVE, tmp_path)
    expected: dict[str, Any] = json.loads((tmp_path / "expected.json").read_text())
    return expected


def run(root: Path, *arguments: str, state: str = "state", status: int = 0) -> str:
    keys = {
        "storage.data.dir": str(root / "kafka" / "data"),
        "storage.tiered.enabled": True,
        "storage.tiered.archive.mode": "move",
        "storage.tiered.directory.path": str(root / "store"),
        "storage.tiered.state.dir": str(root / state),
    }
    (root / "takhin.yaml").write_text(json.dumps(keys))
    done = subprocess.run(
        [sys.executable, "-m", "takhin_tiered", "--config", str(root / "takhin.yaml"), *arguments],
        env={name: value for name, value in os.environ.items() if not name.startswith("TAKHIN_")},
        capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("state", ["state", "new-state"])
def test_it_is_verified_and_restored(tmp_path: Path, previous: dict[str, Any], state: str) -> None:
    """With its catalog, and by a rebuild without it."""
    if state == "new-state":
        run(tmp_path, "rebuild", state=state)
    assert "0 bad" in run(tmp_path, "verify", "--deep", state=state)

    run(tmp_path, "restore", "ledger-0/*", state=state)

    data = tmp_path / "kafka" / "data"
    found = {name: hashlib.sha256((data / name).read_bytes()).hexdigest() for name in previous["files"]}
    assert found == previous["files"]


def test_a_cycle_changes_nothing_of_it(tmp_path: Path, previous: dict[str, Any]) -> None:
    def objects() -> dict[str, bytes]:
        store = tmp_path / "store"
        return {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("ledger-0/*")}

    before = objects()
    run(tmp_path, "run", "--once")
    assert before.items() <= objects().items()


def test_it_says_what_the_archive_lacks(tmp_path: Path, previous: dict[str, Any]) -> None:
    """The transaction indexes, which that release did not archive, of segments with transactions in them."""
    assert any(word in run(tmp_path, "verify").lower() for word in ("lack", "without"))
