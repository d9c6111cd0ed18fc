"""Where the program begins."""

from __future__ import annotations

import gc
import os
import signal
import sys


def main() -> None:
    _handle_signals()
    # Pydantic would search all that is installed for plugins of its own, which takes a tenth of a short command.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    # Nothing that is imported is garbage, and looking for some takes a sixth of the time until the first command.
    # A command that works for long runs in a loop, which turns it on again: `lifecycle.run_in_loop`.
    gc.disable()
    # Imported here, as the signals are to be handled from the first moment on.
    from takhin_tiered.cli.stdout import keep_descriptors, with_guarded_output

    keep_descriptors()
    from takhin_tiered.cli.main import main as command_line

    with_guarded_output(command_line)


def _handle_signals() -> None:
    """Until a command has handlers of its own: nothing has begun yet, so the end may be a plain one."""
    numbers = [signal.SIGINT] if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN else []
    if os.getpid() == 1:
        # The kernel passes over what the first process of a container does not handle.
        numbers.append(signal.SIGTERM)
    for number in numbers:
        signal.signal(number, lambda *_: os._exit(1))
    # Asked for before there is anything to tell, or to read anew: no reason to die of it.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    if "run" in sys.argv and signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        signal.signal(signal.SIGHUP, lambda *_: None)
