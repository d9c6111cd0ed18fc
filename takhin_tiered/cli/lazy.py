"""Commands that are imported when they are called: ``--version`` and the list of commands need none of them."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand


def examples(*lines: str) -> str:
    """The end of a command's help, without re-wrapping."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def add(to: typer.Typer, name: str, target: str, summary: str, *example_lines: str) -> None:
    """Add a command. ``target`` is its function as ``module:name``, in this package.

    ``summary`` is its line in the list of commands, which cuts longer ones.
    """
    how: dict[str, Any] = {"short_help": summary, "epilog": examples(*example_lines)}

    class Deferred(TyperCommand):
        """Only name and summary; the options are loaded with the context for a call, help or completion."""

        def make_context(self, *arguments: Any, **more: Any) -> Any:
            return _load(name, target, how).make_context(*arguments, **more)

    @to.command(name, cls=Deferred, **how)
    def _() -> None:
        raise AssertionError(f"{target} was not loaded")


def _load(name: str, target: str, how: dict[str, Any]) -> Any:
    module, function = target.split(":")
    command = getattr(import_module(f"takhin_tiered.cli.{module}"), function)
    # For an application with one command, typer returns that command.
    alone = typer.Typer(add_completion=False, rich_markup_mode=None)
    alone.command(name, **how)(command)
    return typer.main.get_command(alone)
