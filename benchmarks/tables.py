"""Hybrid tables, beside the bare client, on a server of DynamoDB and S3 that is started here."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.daemon import python
from benchmarks.measure import Figure, Result, require

_SERVERS = Path(__file__).parents[1] / ".make/servers/bin"
_COUNT, _QUICK_COUNT = 100_000, 2000


def tables(bench: Bench, name: str) -> list[Result]:
    count = min(bench.limit, _QUICK_COUNT if bench.quick else _COUNT)
    result = Result(
        name,
        f"{count:,} items of a KiB, archived, against `put_object` and `update_item` of aioboto3 for as many items in "
        "memory, 25 at a time each; a query of 50 pointers whose store is 100 ms away, and the same from memory; a "
        "query of 100 items in the table, against the bare client, typed and as dicts. ministack is DynamoDB and S3.",
        "Every item is archived without an error, and every query gives all items.",
    )
    seen: dict[str, list[float]] = {}
    for number in range(bench.rounds):
        bench.say(f"{name}: round {number + 1} of {bench.rounds}")
        # A server of its own for each round: it keeps everything in memory.
        with bench.directory("tables") as place, _server(bench) as endpoint:
            command = python("-m", "benchmarks.tables_worker", endpoint, str(count), str(place))
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True, env=_environment())
        for key, seconds in json.loads(done.stdout).items():
            seen.setdefault(key, []).append(seconds)
    above = [100 * (ours / bare - 1) for ours, bare in zip(seen["archive"], seen["bare"], strict=True)]
    result.figures += [
        Figure("archive", "s", tuple(seen["archive"])),
        Figure("the bare calls", "s", tuple(seen["bare"])),
        Figure("archive above the bare calls", "%", tuple(above), "at most 25 %"),
        Figure("50 pointers, the store 100 ms away", "s", tuple(seen["pointers"]), "at most 0.6 s"),
        Figure("50 pointers, from memory", "ms", _ms(seen["cached"]), "at most 10 ms"),
    ]
    for key, words in (("live", "typed"), ("live plain", "dicts")):
        wall = [ours - bare for ours, bare in zip(seen[key], seen["live bare"], strict=True)]
        cpu = [ours - bare for ours, bare in zip(seen[f"{key} cpu"], seen["live bare cpu"], strict=True)]
        result.figures += [
            Figure(f"100 live items above the bare client, {words}", "ms", _ms(wall), "at most 1 ms"),
            Figure(f"the same, processor, {words}", "ms", _ms(cpu)),
        ]
    return [result]


def _ms(seconds: list[float]) -> tuple[float, ...]:
    return tuple(value * 1e3 for value in seconds)


def _environment() -> dict[str, str]:
    keys = {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench", "AWS_EC2_METADATA_DISABLED": "true"}
    return {**os.environ, **keys}


@contextmanager
def _server(bench: Bench) -> Iterator[str]:
    program = shutil.which("ministack", path=f"{_SERVERS}:{os.environ.get('PATH', os.defpath)}")
    require(program, f"there is no ministack: `make .make/servers/.done` installs it into {_SERVERS}")
    assert program is not None
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    env = {**os.environ, "BIND_HOST": "127.0.0.1", "GATEWAY_PORT": str(port)}
    with bench.log.open("ab") as log:
        process = subprocess.Popen([program], env=env, stdout=log, stderr=log)
    try:
        for _ in range(600):
            with socket.socket() as connection:
                if connection.connect_ex(("127.0.0.1", port)) == 0:
                    break
            require(process.poll() is None, "ministack ended")
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)
