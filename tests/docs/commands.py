"""The commands in README.md and docs/, as they stand there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SCRIPTS = {"sh", "bash", "shell"}
"""Blocks that are one script each. In the others each line is a command, unless it goes on in the next one."""
# By these a command is told from output, a layout of files or a sketch, in a block that says no language.
PROGRAMS = {
    "apt-get", "aws", "cat", "cd", "chmod", "cp", "curl", "docker", "dpkg", "echo", "export", "find", "git", "helm",
    "install", "journalctl", "kafka-consumer-groups.sh", "kcat", "kubectl", "ln", "make", "mkdir", "mv", "openssl",
    "pip", "pipx", "promtool", "python3", "rclone", "rm", "sed", "sha256sum", "source", "split", "sudo",
    "systemctl", "takhin-tiered", "touch", "xxd", "zstd", "as_service=\"sudo", "$as_service",
    "/opt/takhin-tiered/bin/pip", "*/10",
}  # fmt: skip


class Block(NamedTuple):
    page: Path
    heading: str
    line: int
    language: str
    lines: list[str]


class Command(NamedTuple):
    """``text`` may have several lines. ``line`` is where it begins."""

    page: Path
    heading: str
    line: int
    text: str

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, without the indentation that they have in a list."""
    opened: Block | None = None
    indent = heading = ""
    for number, line in enumerate(page.read_text().splitlines(), 1):
        fence = re.match(r"^( *)```(\w*)$", line)
        if opened is None and fence:
            indent = fence[1]
            opened = Block(page, heading, number + 1, fence[2], [])
        elif opened is not None and fence:
            yield opened
            opened = None
        elif opened is not None:
            opened.lines.append(line.removeprefix(indent))
        elif line.startswith("#"):
            heading = line.lstrip("# ")
    assert opened is None, f"{page.name} has a block without an end"


def commands(page: Path) -> Iterator[Command]:
    for block in blocks(page):
        if block.language in SCRIPTS:
            yield Command(page, block.heading, block.line, "\n".join(block.lines))
        elif block.language in {"", "console"}:
            yield from _of_block(block)


def program(text: str) -> str:
    """The first word behind assignments of variables."""
    words = text.split()
    while len(words) > 1 and re.match(r"^[A-Z_][A-Z0-9_]*=\S*$", words[0]):
        words = words[1:]
    return words[0] if words else ""


def _of_block(block: Block) -> Iterator[Command]:
    prompts = any(line.startswith("$ ") for line in block.lines)
    started: list[str] = []
    for number, line in enumerate(block.lines, block.line):
        if not started:
            text = line.removeprefix("$ ")
            is_command = line.startswith("$ ") if prompts else program(text) in PROGRAMS or block.language != ""
            if not is_command or not text.strip() or text.lstrip().startswith("#"):
                continue
            begun = number
        else:
            text = line
        started.append(text)
        if not _goes_on("\n".join(started)):
            yield Command(block.page, block.heading, begun, "\n".join(started))
            started = []
    assert not started, f"{block.page.name}:{block.line}: a command does not end"


def _goes_on(text: str) -> bool:
    if text.rstrip().endswith(("\\", "|", "&&")):
        return True
    try:
        shlex.split(text, comments=True)
    except ValueError:
        return True
    return False
