"""``demo``: archive and restore sample Kafka segments, with a directory as the store."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from takhin_tiered import logs
from takhin_tiered.catalog.tallies import Stats
from takhin_tiered.cli.output import console, counted, size
from takhin_tiered.cli.running import finish
from takhin_tiered.config import ENV_PREFIX, Settings
from takhin_tiered.daemon import run_daemon
from takhin_tiered.errors import ConfigError
from takhin_tiered.formats.sample import make_segment
from takhin_tiered.segments.names import FileKind, SegmentId
from takhin_tiered.segments.plan import Plan, Step, Verb
from takhin_tiered.tiered_storage import TieredStorage

_HOUR = 3600.0
_SEGMENT_BYTES = 512 * 1024
# Hours since each segment was last written, the oldest first; the last one is active.
_TOPICS = {
    ("orders", 0): (400.0, 350.0, 300.0, 200.0, 100.0, 2.0),
    ("orders", 1): (390.0, 310.0, 190.0, 90.0, 1.0),
    ("payments.v2", 0): (720.0, 500.0, 250.0, 80.0, 20.0, 0.1),
    ("web-clicks", 0): (300.0, 180.0, 40.0, 0.05),
}

_TRIPLE = (FileKind.LOG, FileKind.INDEX, FileKind.TIMEINDEX)


def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Keep the files, and run the daemon afterwards.")] = False,
    segments: Annotated[
        Path | None,
        typer.Option("--segments", metavar="DIR", help="Only write the sample segments, into this new directory."),
    ] = None,
) -> None:
    """Archive and restore sample Kafka segments, with a directory as the store: no cloud needed."""
    logs.configure_for_command()
    if segments is not None:
        _only_write(segments)
        return
    finish(_run_demo(keep=keep))


def _only_write(data: Path) -> None:
    """A directory that exists may be a broker's."""
    try:
        data.mkdir(parents=True)
    except FileExistsError as error:
        raise ConfigError(f"{data} exists", hint="Name a directory that does not exist yet") from error
    console().print(f"{counted(len(_write_segments(data)), 'segment')} in {data}")


async def _run_demo(*, keep: bool) -> None:
    """Run all steps in less than a minute; with ``keep``, serve afterwards."""
    # The environment may name a real data directory and a real bucket: the demo must not touch them.
    for name in [name for name in os.environ if name.startswith(ENV_PREFIX)]:
        del os.environ[name]
    root = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="takhin-tiered-demo-"))
    data, store = root / "data", root / "store"
    out = console()
    try:
        store.mkdir()
        out.print("[bold]1. A broker's data directory[/bold], with real Kafka-format segments of several ages")
        sums = await asyncio.to_thread(_write_segments, data)
        out.print(f"   {counted(len(sums), 'segment')} in {data}\n")
        config = root / "takhin.yaml"
        config.write_text(_config(data, store))
        settings = Settings.load(config)
        async with TieredStorage.open(settings) as storage:
            await _show_job(out, storage, data, sums)
        if keep:
            await _serve(out, settings, config)
        else:
            _print_next(out)
    finally:
        if not keep:
            shutil.rmtree(root)


async def _show_job(out: Console, storage: TieredStorage, data: Path, sums: dict[SegmentId, str]) -> None:
    out.print("[bold]2. The plan[/bold]: takhin-tiered plan")
    plan = await storage.plan()
    _print_plan(out, plan)
    before, disk_before = storage.stats(), _disk_usage(data)

    out.print("\n[bold]3. One cycle[/bold]: takhin-tiered run --once")
    started = time.monotonic()
    await _run_cycle(out, storage, len(plan.work))
    out.print(f"   done in {time.monotonic() - started:.1f} s; each upload was checked before a local file was removed")

    out.print("\n[bold]4. Before and after[/bold]: takhin-tiered status")
    after, disk_after = storage.stats(), _disk_usage(data)
    for name, was, now in _comparison(before, after):
        out.print(f"   {name:<28}{was:>12}{now:>12}")
    out.print(f"   {'disk used (du)':<28}{size(disk_before):>12}{size(disk_after):>12}")
    out.print(f"   [green]{size(disk_before - disk_after)} of disk freed[/green]: no broker has these files open")

    chosen = next(step.id for step in plan.work)
    out.print(f"\n[bold]5. Bring one back[/bold]: takhin-tiered restore {chosen.path}")
    await storage.restore_segment(chosen.path)
    restored = await asyncio.to_thread(_checksum, data, chosen)
    if restored != sums[chosen]:
        raise AssertionError(f"{chosen.path} came back with other bytes")
    out.print("   [green]its three files are back, byte for byte[/green] (SHA-256 of all three compared)")
    bad = [verdict async for verdict in storage.verify(deep=True) if verdict.problem]
    out.print(f"   takhin-tiered verify --deep: every archived byte read back, {len(bad)} bad\n")


async def _run_cycle(out: Console, storage: TieredStorage, total: int) -> None:
    columns = (TextColumn("  "), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=out, disable=not out.is_terminal) as progress:
        task = progress.add_task("", total=total)

        def listen(step: Step, event: str) -> None:
            progress.update(task, description=f"{step.verb} {step.id.path}")
            if event != "begin":
                progress.advance(task)

        report = await storage.run_cycle(listen)
    if report.failures:
        raise AssertionError(f"the demonstration failed: {report.failures}")
    out.print(f"   {counted(report.archived, 'segment')} archived")


def _write_segments(data: Path) -> dict[SegmentId, str]:
    """Write every segment, with the time of its last record as its modification time; returns their checksums."""
    sums: dict[SegmentId, str] = {}
    now = time.time()
    for (topic, partition), ages in _TOPICS.items():
        directory = data / f"{topic}-{partition}"
        directory.mkdir(parents=True)
        (directory / "leader-epoch-checkpoint").write_text("0\n1\n0 0\n")
        offset = 0
        for age in ages:
            modified = now - age * _HOUR
            segment = SegmentId(topic, partition, offset)
            made = make_segment(offset, _SEGMENT_BYTES, first_timestamp=int((modified - 60) * 1000))
            for kind, content in zip(_TRIPLE, (made.log, made.index, made.timeindex), strict=True):
                path = directory / segment.file(kind)
                path.write_bytes(content)
                os.utime(path, (modified, modified))
            sums[segment] = _checksum(data, segment)
            offset = made.next_offset
    return sums


def _checksum(data: Path, segment: SegmentId) -> str:
    digest = hashlib.sha256()
    for kind in _TRIPLE:
        digest.update((data / segment.directory / segment.file(kind)).read_bytes())
    return digest.hexdigest()


def _disk_usage(path: Path) -> int:
    return sum(file.stat().st_blocks * 512 for file in path.rglob("*"))


def _print_plan(out: Console, plan: Plan) -> None:
    for step in plan.steps:
        colour = "green" if step.verb is not Verb.KEEP else "dim"
        out.print(f"   [{colour}]{step.verb:<8}[/{colour}] {step.id.path:<44} {step.tier:<5} {step.reason}")
    out.print(f"   {counted(len(plan.work), 'segment')} to move, {size(plan.bytes_freed)} of files to be unlinked")


def _comparison(before: Stats, after: Stats) -> list[tuple[str, str, str]]:
    return [
        ("", "before", "after"),
        *((f"{tier} segments", str(getattr(before, f"{tier}_segments")), str(getattr(after, f"{tier}_segments")))
          for tier in ("hot", "warm", "cold")),
        ("in the archive only", str(before.archived_segments), str(after.archived_segments)),
        ("segments on the local disk", size(before.local_size_bytes), size(after.local_size_bytes)),
        ("in the store", size(before.archived_size_bytes), size(after.archived_size_bytes)),
    ]  # fmt: skip


def _config(data: Path, store: Path) -> str:
    return f"""\
storage:
  data:
    dir: {data}
  tiered:
    enabled: true
    directory:
      path: {store}
    api:
      port: 0
logging:
  format: text
"""


async def _serve(out: Console, settings: Settings, config: Path) -> None:
    out.print("[bold]6. The daemon[/bold] serves until Ctrl-C. In another terminal:")
    out.print(f"   takhin-tiered --config {config} status")
    out.print(f"   takhin-tiered --config {config} ls --state archived")
    out.print(f"   takhin-tiered --config {config} restore 'orders-*'")
    out.print(f"   The files stay in {config.parent} afterwards.\n")
    await run_daemon(settings)


def _print_next(out: Console) -> None:
    out.print("[bold]What next[/bold]")
    out.print("   takhin-tiered demo --keep            the same, then a daemon that keeps running")
    out.print(
        "   make trial                           the daemon with an S3 server and sample segments, to try by hand"
    )
    out.print("   takhin-tiered --help                 all commands")
    out.print("   docs/quickstart.md                   the same with MinIO; then S3, a live broker")
