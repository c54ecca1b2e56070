"""Runs a script: parses arguments, calls ``main``, prints the last lines. Errors that users can fix are one line."""

import argparse
import io
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from utils.command_line.allocator import keep_freed_memory
from utils.errors import NO_MEMORY, WORKER_DIED, Interrupted, UserError, printable, shortened

INTERRUPTED = "finished files are complete; the same command resumes from them"
INTERRUPTED_STATUS = 130
LONGEST_MESSAGE = 4000  # characters
OPEN_FIRST = ("index.html", "_card.png", ".md", "_concepts.csv", ".png")  # ends of names, the best one first


def run(
    main: Callable[[Any], object],
    parser: argparse.ArgumentParser,
    *,
    settings: Callable[[argparse.Namespace, argparse.ArgumentParser], object] | None = None,
    interrupted: str = INTERRUPTED,
) -> None:
    """Parse the arguments and call ``main`` with its settings.

    An error that the user can fix is one line on standard error and status 2; Ctrl-C is one line and status 130.

    Parameters
    ----------
    main, parser
        ``main`` imports what takes seconds, so that ``--help`` and wrong arguments do not wait for it.
    settings : function, optional
        Makes the settings from the parsed arguments, and raises UserError if these cannot be combined. Default:
        ``main`` gets the parsed arguments.
    interrupted : str
        Text that is printed after an interrupt, unless ``main`` raises Interrupted: what it leaves behind.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # class folders may have any name
    try:
        args = parser.parse_args()
        keep_freed_memory()
        main(settings(args, parser) if settings else args)
        sys.stdout.flush()
    except UserError as error:
        _stop(parser, error)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        _stop(parser, f"{error.filename or 'input or output'}: {error.strerror or error}")
    except RuntimeError as error:
        if NO_MEMORY.search(f"{type(error).__name__}: {error}"):
            of_device = "GPU " if "CUDA" in str(error) or type(error).__name__ == "OutOfMemoryError" else ""
            _stop(parser, f"out of {of_device}memory: use a smaller --batch_size")
        # torch raises this wherever the main process is when a worker process dies
        if not re.search("DataLoader worker .*(killed by signal|exited unexpectedly)", str(error)):
            raise
        _stop(parser, WORKER_DIED)
    except KeyboardInterrupt as interrupt:
        left = interrupt if isinstance(interrupt, Interrupted) else interrupted
        print(f"\n{parser.prog}: interrupted; {left}", file=sys.stderr)
        sys.exit(INTERRUPTED_STATUS)
    finally:
        _end_quietly()


def _stop(parser: argparse.ArgumentParser, message: object) -> NoReturn:
    text = printable(" ".join(str(message).split()))
    print(f"{parser.prog}: error: {shortened(text, LONGEST_MESSAGE)}", file=sys.stderr)
    sys.exit(2)


def _end_quietly() -> None:
    """While Python shuts down, an interrupt ends it without a traceback."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED_STATUS))


# --------------------------------------------------------------------------------------------------------------------
# The last lines: the files written, the commands to run next, and the file to open first


def print_end(
    written: Sequence[Path | str],
    commands: Sequence[tuple[str, str]],
    *,
    open_first: Path | str | None = None,
    opened_by: str | None = None,
    is_empty: bool = False,
) -> None:
    """Print the last lines of a stage.

    Parameters
    ----------
    written
        Files that the stage has not printed yet.
    commands
        (purpose, command) pairs; the purpose of the first is ``next``.
    open_first
        The file to open first. Default: the most informative one of ``written``.
    opened_by
        How to open it, if it is not a file for people to look at.
    is_empty
        Whether there is nothing to look at in any file.
    """
    if written:
        print("\nwrote " + "\n      ".join(map(str, written)))
    for purpose, command in commands:
        print(f"{purpose}: {command}")
    open_first = open_first or best_to_open(written)
    if open_first and not is_empty:
        print(f"open first{f' ({opened_by})' if opened_by else ''}: {open_first}")


def best_to_open(paths: Sequence[Path | str]) -> Path | str | None:
    """The most informative file; None if none of them is for people."""
    for ending in OPEN_FIRST:
        for path in paths:
            if str(path).endswith(ending):
                return path
    return None
