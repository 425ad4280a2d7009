"""The command `potstill`: what it does with arguments, and what it says when something goes wrong."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from threading import current_thread, main_thread

from potstill.errors import PotstillError

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line and returns its exit code.

    0 for success, 2 for what the user can mend, 1 for what broke, 130 for an interruption. Errors are one
    sentence on standard error; `--debug`, anywhere on the line, shows the traceback instead.
    """
    # Read by OpenMP when torch is loaded, which is later. Threads that spin while they wait make a run on busy
    # cores ten times slower (4x256 BERT, 2 threads, load 5: 2.6 to 5.6 s a batch against 0.25 to 0.42 s).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Else a rank that another one has left alone prints C++ frames before our sentence.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

    import click

    from potstill.cli.group import potstill

    _end_by_exception()
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    try:
        code = potstill.main([word for word in words if word != "--debug"], prog_name="potstill", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.ClickException as error:
        return _ended(error.exit_code, error.show)
    except (KeyboardInterrupt, click.Abort):
        text = "Interrupted; nothing was left half-written, so the same command can be given again."
        return _ended(INTERRUPTED, lambda: _say(text))
    except Exception as error:
        from potstill.disk import refusal

        told = refusal(error) or error
        text = traceback.format_exc().rstrip() if debug else _sentence(told)
        return _ended(told.exit_code if isinstance(told, PotstillError) else 1, lambda: _say(text))


def _end_by_exception() -> None:
    """Makes SIGTERM end a command as Ctrl-C does, so that it removes its drafts and ends its worker processes."""
    if current_thread() is main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)


def _ended(code: int, say: Callable[[], None]) -> int:
    """Says what went wrong, once where there are several processes, and returns the exit code."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from potstill.ranks import end_together

        return end_together(code, say)
    say()
    return code


def _sentence(error: Exception) -> str:
    notes = "; ".join(getattr(error, "__notes__", ()))
    where = f" ({notes})" if notes else ""
    if isinstance(error, PotstillError):
        return f"{error}{where}"
    what = " ".join(f"{type(error).__name__}: {error}".split())
    return f"potstill broke: {what}{where}; run again with --debug for the traceback"


def _say(text: str) -> None:
    print(text, file=sys.stderr)
