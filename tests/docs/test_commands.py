"""Every command of README.md and docs/ is run as it stands there, or stands in a short list that says why not."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.docs.commands import PAGES, ROOT, Command, commands, program
from tests.docs.world import BUCKET, BYTES_EACH, PREFIX, World
from tests.support import ministack, wait_until

# What is not run here, by the first word of a command or by a page, and why.
NOT_RUN = {
    "as_service=\"sudo": "it needs systemd and root",
    "$as_service": "the same",
    "ln": "it changes the machine; systemd-analyze checks the unit in .ci/check-packaging.sh",
    "install": "it changes the machine",
    "apt-get": "it changes the machine",
    "pipx": ".ci/check-packaging.sh runs it",
    "python3": ".ci/check-packaging.sh makes such an environment; or it asks for a password",
    "/opt/takhin-tiered/bin/pip": ".ci/check-packaging.sh runs it",
    "make": "the targets are the project's own gates: make demo, make deb",
    "docker": "there is no Docker daemon; hadolint and the schema of compose files check what it reads",
    "kubectl": "there is no cluster; .ci/check-packaging.sh validates what it applies",
    "helm": "there is no cluster; .ci/check-packaging.sh renders and validates the chart",
    "kcat": "tests/kafka runs real clients, where Java is",
}  # fmt: skip
PAGES_NOT_RUN = {
    "quickstart.md": "tests/integration/test_quickstart.py runs it",
    "reading.md": "tests/kafka/test_guide.py runs its examples beside a real Kafka",
    "tables.md": "tests/integration/test_hybrid_guide.py runs its example",
}
# Programs that may be missing on a machine: their commands are then not run, and the test says so.
OPTIONAL = {"aws", "jq", "xxd", "zstd", "promtool", "openssl", "rclone"}
# A status other than 0 is what the page speaks of.
STATUS = {
    r"^Corrupt object: takhin-tiered verify --deep": 1,  # it is bad
    r"^Erase a topic: aws s3 ls": 1,  # nothing is left
}
SETTINGS = {
    "fleet.md": {
        "storage.tiered.fleet.table": "takhin-fleet",
        "storage.tiered.fleet.node": "broker-1",
        "storage.tiered.fleet.mode": "dual",
        "storage.tiered.fleet.endpoint": "{endpoint}",
    }
}
# Of one batch, of several parts, and active: those of the page's example.
SIZES = {"object-format.md": (1, 73_400_000, 1)}
DAMAGED = "orders-0/00000000000000000000.log"

Step = Callable[[World, str], str]


def why_not(command: Command) -> str:
    return PAGES_NOT_RUN.get(command.page.name) or NOT_RUN.get(program(command.text), "")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with ministack() as endpoint:
        yield endpoint


@pytest.fixture
def world(tmp_path: Path, server: str, page: Path) -> Iterator[World]:
    made = World(tmp_path, server, SETTINGS.get(page.name, {}))
    made.create_buckets()
    made.fill(SIZES.get(page.name, (BYTES_EACH,) * 4))
    made.systemctl("start")
    made.wait_cycle()
    yield made
    made.systemctl("stop")
    made.remove_buckets()


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in PAGES_NOT_RUN], ids=lambda page: page.name)
def test_every_command_of_a_page_works(page: Path, world: World) -> None:
    failures = []
    ran = 0
    for command in commands(page):
        if why_not(command):
            continue
        missing = [name for name in OPTIONAL if re.search(rf"\b{name} ", command.text) and not world.has(name)]
        if missing:
            print(f"{command.where} is not run: there is no {', '.join(missing)}")
            continue
        ran += 1
        print(time.strftime("%T"), command.where, flush=True)
        if problem := carry_out(world, command):
            failures.append(f"{command.where}: {command.text}\n    {problem}")
    assert failures == [], "\n".join(failures)
    print(f"{page.name}: {ran} commands ran")


def carry_out(world: World, command: Command) -> str:
    """What went wrong; empty where all is well."""
    text = world.localise(command.text)
    named = f"{command.heading}: {text}"
    for pattern, step in STEPS:
        if re.search(pattern, named):
            text = step(world, text)
    if not text:
        return ""
    ended = world.run(text)
    for _ in range(5):
        # `doctor` gives a check six seconds, which is too little for a machine that runs much else.
        if not re.search("no answer within|still hangs", ended.stdout):
            break
        ended = world.run(text)
    expected = next((status for pattern, status in STATUS.items() if re.search(pattern, named)), 0)
    said = (ended.stdout + ended.stderr)[-700:]
    if "Traceback" in ended.stderr:
        return f"a traceback: {said}"
    return "" if ended.returncode == expected else f"exit status {ended.returncode}: {said}"


def without_daemon(world: World, text: str) -> str:
    """The page says that no daemon runs meanwhile."""
    return f"systemctl stop takhin-tiered; {text.split('#')[0]}; systemctl start takhin-tiered"


def as_daemon(world: World, text: str) -> str:
    """The daemon itself: it ends well when it is asked to, and serves when it is started."""
    world.systemctl("restart")
    return ""


def after_half_a_download(world: World, text: str) -> str:
    """Of a file that is whole there is nothing to resume."""
    file = world.root / "work" / "segment.log"
    file.write_bytes(file.read_bytes()[:1000])
    return text


def with_a_bad_object(world: World, text: str) -> str:
    """The only copy of a segment is damaged in the bucket; the version before is sound."""
    world.bucket.write(DAMAGED, b"\0" * 1000)
    return text


def with_the_sound_version(world: World, text: str) -> str:
    versions = world.bucket.client.list_object_versions(Bucket=BUCKET, Prefix=f"{PREFIX}/{DAMAGED}")["Versions"]
    [sound] = [each["VersionId"] for each in versions if not each["IsLatest"]]
    return text.replace("versionId=ID", f"versionId={sound}")


def with_a_retention(world: World, text: str) -> str:
    """As the page says, once the topic was deleted at the broker; and it is applied before the next command."""
    if not (world.data / "customers-0").exists():
        return text
    shutil.rmtree(world.data / "customers-0")
    world.write_config({"storage.tiered.retention.hours": {"customers": 0.01}})
    lines = world.log.read_text().count("configuration reloaded")
    world.systemctl("reload")
    wait_until(lambda: world.log.read_text().count("configuration reloaded") > lines, what="the reload")
    return text


def with_the_file_of_the_example(world: World, text: str) -> str:
    (world.root / "work" / "00000000000000000020.log").write_bytes(
        world.bucket.read("orders-0/00000000000000000020.log")
    )
    return text


def on_a_new_machine(world: World, text: str) -> str:
    world.systemctl("stop")
    for directory in (world.data, world.root / "state"):
        shutil.rmtree(directory)
        directory.mkdir()
    return text


STEPS: list[tuple[str, Step]] = [
    (r": \*/10 \* \* \* \* ", lambda _, text: text.removeprefix("*/10 * * * * ")),
    (r"takhin-tiered .*\brun --once", without_daemon),
    (r"takhin-tiered .*\brun( +#.*)?$", as_daemon),
    (r": split -b", with_the_file_of_the_example),
    (r"curl -f -C -", after_half_a_download),
    (r"^Corrupt object: takhin-tiered ls", with_a_bad_object),
    (r"versionId=ID", with_the_sound_version),
    (r"^Erase a topic: systemctl reload", with_a_retention),
    (r"^Lost node: takhin-tiered config check", on_a_new_machine),
]


def test_whatever_is_not_run_is_in_a_short_list_and_needed_there() -> None:
    everything = [command for page in PAGES for command in commands(page)]
    assert len(everything) > 80
    assert {program(command.text) for command in everything} >= set(NOT_RUN)
    assert {command.page.name for command in everything} >= set(PAGES_NOT_RUN)
    assert all((ROOT / "docs" / name).is_file() for name in PAGES_NOT_RUN)
