"""The other programs, as they are called. Eight transfers at a time, as ours; all else as they come."""

from __future__ import annotations

import os
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bench import CONCURRENCY, Bench
from benchmarks.server import BUCKET, REGION

_AWS_CONFIG = f"[default]\nregion = {REGION}\ns3 =\n  max_concurrent_requests = {CONCURRENCY}\n"


@dataclass(frozen=True, slots=True)
class Peer:
    """``up`` and ``down`` copy a whole directory; ``tool`` is the program that has to be there."""

    name: str
    tool: str
    up: list[str] | None
    down: list[str]


def copiers(bench: Bench, source: Path, target: Path, prefix: str) -> list[Peer]:
    """Who copies ``source`` up to the prefix, and the prefix down to ``target``."""
    s5cmd, rclone, aws = s5(bench), rclone_command(bench), aws_command(bench)
    there, remote = f"s3://{BUCKET}/{prefix}/", f"bench:{BUCKET}/{prefix}"
    s5_down = [*s5cmd, "cp", f"{there}*", f"{target}/"]
    files = f"find {shlex.quote(str(target))} -type f -print0"
    # What ours does besides: every byte through SHA-256, every file flushed.
    proven = f"{shlex.join(s5_down)} && {files} | xargs -0 -P 2 -n 16 sha256sum && {files} | xargs -0 sync"
    peers = [
        Peer("s5cmd cp", "s5cmd", [*s5cmd, "cp", f"{source}/", there], s5_down),
        Peer("s5cmd cp, then sha256sum and sync", "s5cmd", None, ["sh", "-c", proven]),
        Peer("rclone copy", "rclone", [*rclone, "copy", str(source), remote], [*rclone, "copy", remote, str(target)]),
        Peer(
            "aws s3 cp",
            "aws",
            [*aws, "cp", "--recursive", "--only-show-errors", str(source), there],
            [*aws, "cp", "--recursive", "--only-show-errors", there, str(target)],
        ),
    ]
    return [peer for peer in peers if bench.races(peer.tool)]


def s5(bench: Bench) -> list[str]:
    endpoint = bench.server.endpoint
    return [str(bench.peers / "s5cmd"), "--log", "error", "--endpoint-url", endpoint, "--numworkers", str(CONCURRENCY)]


def rclone_command(bench: Bench) -> list[str]:
    return [str(bench.peers / "rclone"), "--transfers", str(CONCURRENCY), "--checkers", str(CONCURRENCY)]


def aws_command(bench: Bench) -> list[str]:
    return [str(bench.peers / "aws"), "--endpoint-url", bench.server.endpoint, "s3"]


def environment(bench: Bench) -> dict[str, str]:
    """Credentials are in the environment already; here is what else the programs need to be told."""
    config = bench.work / "aws.config"
    config.write_text(_AWS_CONFIG)
    return {
        **os.environ,
        "AWS_CONFIG_FILE": str(config),
        "AWS_REGION": REGION,
        "RCLONE_CONFIG": "/dev/null",
        "RCLONE_CONFIG_BENCH_TYPE": "s3",
        "RCLONE_CONFIG_BENCH_PROVIDER": "Other",
        "RCLONE_CONFIG_BENCH_ENV_AUTH": "true",
        "RCLONE_CONFIG_BENCH_ENDPOINT": bench.server.endpoint,
        "RCLONE_CONFIG_BENCH_REGION": REGION,
        "RCLONE_CONFIG_BENCH_NO_CHECK_BUCKET": "true",
    }


def versions(peers: Path) -> dict[str, str]:
    """What each program says that it is."""
    asked = {"s5cmd": ["s5cmd", "version"], "rclone": ["rclone", "version"], "aws": ["aws", "--version"]}
    found = {"find": subprocess.run(["find", "--version"], capture_output=True, text=True, check=True).stdout}
    for name, (tool, *arguments) in asked.items():
        done = subprocess.run([str(peers / tool), *arguments], capture_output=True, text=True, check=True)
        found[name] = done.stdout
    return {name: text.splitlines()[0] for name, text in found.items()}
