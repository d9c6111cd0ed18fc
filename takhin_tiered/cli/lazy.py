"""Commands that are imported when they are called: the version and the list of commands need none of them."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand


def examples(*lines: str) -> str:
    """The end of a command's help, in lines that stay as they are."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def add(to: typer.Typer, name: str, target: str, summary: str, *example_lines: str) -> None:
    """Add the command whose function is ``target``, as in ``status:status``, a module of this package and a name in it.

    ``summary`` is its line in the list of commands, which cuts whatever is longer than it is wide.
    """
    how: dict[str, Any] = {"short_help": summary, "epilog": examples(*example_lines)}

    class Deferred(TyperCommand):
        """Known by name and summary. Its options are known once the context for a call, help or completion is made."""

        def make_context(self, *arguments: Any, **more: Any) -> Any:
            return _load(name, target, how).make_context(*arguments, **more)

    @to.command(name, cls=Deferred, **how)
    def _() -> None:
        raise AssertionError(f"{target} was not loaded")


def _load(name: str, target: str, how: dict[str, Any]) -> Any:
    module, function = target.split(":")
    command = getattr(import_module(f"takhin_tiered.cli.{module}"), function)
    # Of an application with one command, typer makes that command.
    alone = typer.Typer(add_completion=False, rich_markup_mode=None)
    alone.command(name, **how)(command)
    return typer.main.get_command(alone)
