"""Where the program begins."""

from __future__ import annotations

import gc


def main() -> None:
    # Nothing that is imported is garbage, and looking for some takes a sixth of the time until the first command.
    gc.disable()
    from takhin_tiered.cli.main import main as command_line

    gc.freeze()
    gc.enable()
    command_line()
