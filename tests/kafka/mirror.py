"""MirrorMaker 2, in a process of its own."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.kafka.broker import LOG4J, Kafka, find_jars


@contextmanager
def mirror(properties: str, target: Kafka, root: Path) -> Iterator[None]:
    """With these properties, until the end of the block; what it says is in `mirror.log`."""
    file, log = root / "mirror.properties", root / "mirror.log"
    file.write_text(properties)
    (root / "mirror-log4j.properties").write_text(LOG4J)
    command = [str(shutil.which("java")), "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
    command += [
        f"-Dlog4j.configuration=file:{root / 'mirror-log4j.properties'}",
        "-cp",
        f"{find_jars(target.version)}/*",
    ]
    command += ["org.apache.kafka.connect.mirror.MirrorMaker", str(file)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=root, stdout=output, stderr=output)
    try:
        yield
        assert process.poll() is None, f"MirrorMaker ended with {process.returncode}:\n{log.read_text()[-3000:]}"
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
