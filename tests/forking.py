"""Scripts in processes that start at once, as each is forked from one that has imported the program.

A short command spends most of its time on imports. Where thousands of them are killed, and what is tried comes after
the start, that time is the length of the run. Such a process has its own memory, descriptors, environment and end, by
exit or signal, as any other. What happens between ``exec`` and ``main`` is tried where commands are.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from functools import cache
from importlib import import_module
from pathlib import Path

_ROOT = Path(__file__).parents[1]


def run_forked(script: Path, *arguments: str, env: dict[str, str], seconds: float) -> subprocess.CompletedProcess[str]:
    """Like `subprocess.run` of a Python script, with its output in texts; raises `subprocess.TimeoutExpired` alike."""
    words = [str(script), *arguments]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as error, socket.socket(socket.AF_UNIX) as line:
        line.connect(_server())
        line.settimeout(seconds)
        asked = json.dumps({"words": words, "env": env, "directory": str(Path.cwd())}).encode()
        socket.send_fds(line, [len(asked).to_bytes(4, "big")], [out.fileno(), error.fileno()])
        line.sendall(asked)
        pid = int.from_bytes(_exactly(line, 4), "big")
        try:
            status = int.from_bytes(_exactly(line, 4), "big", signed=True)
        except TimeoutError:
            os.kill(pid, signal.SIGKILL)
            line.settimeout(10)
            _exactly(line, 4)
            raise subprocess.TimeoutExpired(words, seconds) from None
        texts = [os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode() for file in (out, error)]
    return subprocess.CompletedProcess(words, status, *texts)


@cache
def _server() -> str:
    """The address of this process's own server, which ends with it."""
    directory = tempfile.mkdtemp(prefix="forking-")
    address = f"{directory}/socket"
    process = subprocess.Popen(
        [sys.executable, "-P", __file__, address], stdin=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(_ROOT)}
    )
    assert process.stdin is not None

    def end() -> None:
        process.communicate(timeout=20)
        Path(address).unlink(missing_ok=True)
        Path(directory).rmdir()

    atexit.register(end)
    until = time.monotonic() + 60
    while not Path(address).exists():
        assert process.poll() is None, "the server of forks has ended"
        assert time.monotonic() < until, "the server of forks does not start"
        time.sleep(0.01)
    return address


def _exactly(line: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        piece = line.recv(size - len(found))
        if not piece:
            raise ConnectionResetError("the server of forks has ended")
        found += piece
    return found


def _serve(address: str) -> tuple[list[str], dict[str, str], str] | None:
    """Fork for each who asks, until the standard input ends. In such a fork: what it is to run."""
    with socket.socket(socket.AF_UNIX) as listener:
        # Where it can be seen, it can be connected to.
        listener.bind(address + ".new")
        listener.listen(64)
        Path(address + ".new").rename(address)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        while True:
            ready, _, _ = select.select([listener, sys.stdin], [], [])
            if sys.stdin in ready:
                return None
            line, _ = listener.accept()
            if os.fork():
                line.close()
                continue
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            listener.close()
            return _hand_over(line)


def _hand_over(line: socket.socket) -> tuple[list[str], dict[str, str], str]:
    """Fork once more: the child goes on, the parent tells of its end."""
    head, files, _, _ = socket.recv_fds(line, 4, 2)
    asked = json.loads(_exactly(line, int.from_bytes(head, "big")))
    child = os.fork()
    if child:
        line.sendall(child.to_bytes(4, "big"))
        _, status = os.waitpid(child, 0)
        line.sendall(os.waitstatus_to_exitcode(status).to_bytes(4, "big", signed=True))
        os._exit(0)
    line.close()
    with open(os.devnull, "rb") as nothing:
        for source, target in zip((nothing.fileno(), *files), range(3), strict=True):
            os.dup2(source, target)
    for file in files:
        os.close(file)
    return asked["words"], asked["env"], asked["directory"]


def _import_all() -> None:
    import takhin_tiered

    for module in pkgutil.walk_packages(takhin_tiered.__path__, "takhin_tiered."):
        if not module.name.endswith("__main__"):
            import_module(module.name)


if __name__ == "__main__":
    from tests.models import load_models, share_models

    _import_all()
    share_models()
    load_models()
    # What is here stays: a collection in a fork would copy all of its pages.
    gc.collect()
    gc.freeze()
    if (job := _serve(sys.argv[1])) is not None:
        sys.argv, variables, directory = job
        os.environ.clear()
        os.environ.update(variables)
        time.tzset()
        os.chdir(directory)
        runpy.run_path(sys.argv[0], run_name="__main__")
