"""``takhin-tiered tables …``, and the daemon's timer."""

from __future__ import annotations

import base64
import json
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from takhin_tiered import Settings
from tests.support import command, daemon, wait_until
from tests.tables import Dynamo, described, hybrid_settings, item, n, s

# Each starts the program many times.
pytestmark = [pytest.mark.long, pytest.mark.timeout(400)]


@dataclass
class Scene:
    dynamo: Dynamo
    name: str
    settings: Settings
    store: Path

    def run(self, *arguments: str, code: int = 0) -> str:
        done = command(self.settings, "tables", *arguments)
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        self.errors = done.stderr
        return done.stdout


@pytest.fixture
def scene(dynamo: Dynamo, tmp_path: Path) -> Scene:
    name = dynamo.create()
    dynamo.put(
        name,
        item("c", "1", text="t", data={"B": b"\x00"}, num=n("1.50")),
        item("c", "2", text="t" * 3000),
        item("c", "3", age_days=3),
    )
    return Scene(dynamo, name, hybrid_settings(tmp_path, dynamo, [described(name)]), tmp_path / "store")


@pytest.mark.parametrize("word", ["nan", "-inf", "1e999", "five"])
def test_a_word_that_is_no_number_is_named(dynamo: Dynamo, tmp_path: Path, word: str) -> None:
    name = dynamo.create(partition="N")
    scene = Scene(dynamo, name, hybrid_settings(tmp_path, dynamo, [described(name)]), tmp_path / "store")
    scene.run("get", name, "--", word, "x", code=2)
    assert f"pk of {name} is of type N, and '{word}' is not" in scene.errors


def test_an_operator_plans_archives_reads_and_brings_back(scene: Scene) -> None:
    listed = json.loads(scene.run("ls", "--json"))["tables"]
    assert [(each["name"], each["partition_key"], each["archive_after_days"], each["error"]) for each in listed] == [
        (scene.name, "pk", 180.0, "")
    ]
    assert "2 items would be archived" in scene.run("plan")
    assert "1 too young" in scene.run("archive", "-n", scene.name)
    estimated = json.loads(scene.run("archive", "--estimate", "--json"))
    assert (estimated["items_archived"], estimated["dry_run"]) == (2, True)
    assert estimated["estimate"]["cost"] > 0
    assert estimated["estimate"]["months"] >= 1
    assert scene.dynamo.pointers(scene.name) == []

    done = json.loads(scene.run("archive", "--json"))
    assert (done["items_processed"], done["items_archived"], done["items_skipped"]) == (3, 2, 1)
    assert (done["skipped"], done["errors"]) == ({"too young": 1}, [])
    assert len(scene.dynamo.pointers(scene.name)) == 2
    got = json.loads(scene.run("get", scene.name, "c", "1"))
    assert (got["text"], got["data"], got["pk"]) == (s("t"), {"B": base64.b64encode(b"\x00").decode()}, s("c"))
    assert scene.run("get", scene.name, "c", "9", code=1) == ""
    assert "no such item" in scene.errors

    assert "back in the table" in scene.run("unarchive", scene.name, "c", "1")
    assert "already" in scene.run("unarchive", scene.name, "c", "1")
    assert "came back" in scene.run("archive")
    assert len(scene.dynamo.pointers(scene.name)) == 1


def test_verify_names_each_bad_item_and_exits_1(scene: Scene) -> None:
    scene.run("archive")
    (scene.store / scene.name / "c/1.json.gz").unlink()
    (scene.store / scene.name / "c/2.json.gz").write_bytes(b"\x1f\x8bx")
    found = json.loads(scene.run("verify", "--json", code=1))
    assert [(each["item"], each["key"]) for each in found["bad"]] == [
        (f"{scene.name} c 1", f"{scene.name}/c/1.json.gz"),
        (f"{scene.name} c 2", f"{scene.name}/c/2.json.gz"),
    ]
    (scene.store / scene.name / "c/x\x1b[2J.json.gz").write_bytes(b"")
    told = scene.run("verify", code=1)
    assert f"BAD {scene.name} c 1: {scene.name}/c/1.json.gz" in told
    assert "x\\x1b[2J.json.gz" in told
    assert "\x1b" not in told
    scene.run("get", scene.name, "c", "1", code=1)
    assert f"{scene.name}/c/1.json.gz" in scene.errors


def test_wrong_use_is_explained(scene: Scene) -> None:
    scene.run("archive", "other", code=2)
    assert "there is no hybrid table 'other'" in scene.errors
    scene.run("get", scene.name, "c", code=2)
    assert "pk and sk" in scene.errors
    none = {name: getattr(scene.settings, name) for name in scene.settings.model_fields_set - {"hybrid_tables"}}
    done = command(Settings(**none), "tables", "ls")
    assert done.returncode == 2
    assert "storage.tiered.hybrid.tables" in done.stderr


def test_the_daemon_archives_on_its_timer_and_stops_when_told(scene: Scene, tmp_path: Path) -> None:
    settings = scene.settings.model_copy(update={"archive_interval_minutes": 0.001})
    again = Settings(**{name: getattr(settings, name) for name in settings.model_fields_set})
    with daemon(again, tmp_path / "log") as running:

        def metrics() -> str:
            return running.request("GET", "/metrics").text

        running.wait_serving()
        wait_until(lambda: len(scene.dynamo.pointers(scene.name)) == 2, what="the archive of old items")
        scene.dynamo.put(scene.name, item("c", "4", text="t"))
        wait_until(lambda: len(scene.dynamo.pointers(scene.name)) == 3, what="the next archive")
        # Somebody who knows nothing of pointers leaves an object behind.
        scene.dynamo.client.delete_item(TableName=scene.name, Key={"pk": s("c"), "sk": s("1")})
        gone = scene.store / scene.name / "c/1.json.gz"
        wait_until(lambda: not gone.exists(), what="the sweep")
        # The sweep is the end of a run.
        wait_until(lambda: "hybrid_last_run_timestamp_seconds 1" in metrics(), what="the end of a run")
        told = dict(
            line.rsplit(" ", 1) for line in metrics().splitlines() if "storage_hybrid" in line and line[0] != "#"
        )
        counts = {name.removeprefix("tiered_storage_hybrid_"): float(value) for name, value in told.items()}
        assert (counts["items_archived_total"], counts["errors_total"]) == (3, 0)
        assert counts["bytes_archived_total"] > 3000
        assert counts['items_skipped_total{reason="too young"}'] >= 2
        assert abs(counts["last_run_timestamp_seconds"] - time.time()) < 60
        assert running.stop() == 0
    assert not list((scene.store / f"takhin-tiered.tables/{scene.name}").glob("run-*"))
