"""The program's entry point."""

from __future__ import annotations

import gc
import os
import signal
import sys


def main() -> None:
    _handle_signals()
    # Pydantic would search all installed packages for plugins: a tenth of the time of a short command.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    # Imports leave no garbage, and collecting takes a sixth of the start-up time.
    # `lifecycle.run_in_loop` enables collection again for commands that run longer.
    gc.disable()
    # Imported here: signals are handled before anything else loads.
    from takhin_tiered.cli.stdout import keep_descriptors, with_guarded_output

    keep_descriptors()
    from takhin_tiered.cli.main import main as command_line

    with_guarded_output(command_line)


def _handle_signals() -> None:
    """Until a command installs its own handlers: nothing has started yet, so just exit."""
    numbers = [signal.SIGINT] if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN else []
    if os.getpid() == 1:
        # The kernel ignores signals that the first process of a container does not handle.
        numbers.append(signal.SIGTERM)
    for number in numbers:
        signal.signal(number, lambda *_: os._exit(1))
    # The default action of these is to terminate, but there is nothing to dump or reload yet.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    if "run" in sys.argv and signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        signal.signal(signal.SIGHUP, lambda *_: None)
