"""Every `takhin-tiered …` in the pages, in blocks and in sentences, is a command with options that there are."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

import typer

from takhin_tiered.cli.main import app
from tests.docs.commands import PAGES

ROOT_COMMAND: Any = typer.main.get_command(app)
HELP = {"--help", "-h"}
# The first words of what encryption authenticates beside the bytes.
NOT_COMMANDS = {"key", "item"}


def mentioned() -> Iterator[tuple[str, str]]:
    """Where, and the words behind the program's name."""
    for page in PAGES:
        text = page.read_text().replace("\\\n", " ")
        text = re.sub(r"^ *(docker|kubectl|helm|journalctl|systemctl) .*$", "", text, flags=re.MULTILINE)
        for found in re.finditer(r"(?<![\w/:.=-])takhin-tiered +([a-z-][^`\n]*)", text):
            line = text.count("\n", 0, found.start()) + 1
            yield f"{page.name}:{line}", found[1]


def problem(words: list[str]) -> str:
    """What the command line of these words would not understand; values are not looked at."""
    command, path, is_value = ROOT_COMMAND, "takhin-tiered", False
    for word in words:
        if is_value:
            is_value = False
        elif word.startswith("-") and word not in HELP:
            name = word.partition("=")[0]
            # The global ones may stand behind a command too.
            known = [*ROOT_COMMAND.params, *command.params]
            options = {each: option for option in known for each in (*option.opts, *option.secondary_opts)}
            if name not in options:
                return f"{path} has no option {name}"
            is_value = "=" not in word and not options[name].is_flag
        elif (within := getattr(command, "commands", None)) is not None and word not in HELP:
            if word not in within:
                return f"{path} has no command {word}"
            # The options of a command are loaded with the context for a call.
            command = within[word].make_context(word, [], resilient_parsing=True).command
            path = f"{path} {word}"
    return ""


def test_every_command_that_is_mentioned_exists_with_its_options() -> None:
    wrong, count = [], 0
    for where, text in mentioned():
        text = re.split(r" [|>#;&]|  |\.\.\.|…|[,:;)](?: |$)", text)[0].rstrip(".")
        try:
            words = shlex.split(text)
        except ValueError:
            words = text.split()
        if words and words[0] in NOT_COMMANDS:
            continue
        if not words or not (words[0].startswith("-") or words[0] in ROOT_COMMAND.commands):
            wrong.append(f"{where}: takhin-tiered {text}")
            continue
        count += 1
        if said := problem(words):
            wrong.append(f"{where}: {said}")
    assert wrong == [], "\n".join(wrong)
    assert count > 80
