"""Running a script: arguments first, then the libraries, then the work; what the user can mend is one line."""

import importlib
import os
import re
import signal
import sys

from utils.errors import WORKER_DIED, UserError, printable, shortened

INTERRUPTED = "finished files are whole, the same command goes on from them"
LONGEST_MESSAGE = 4000  # characters


def run(main, parser, *libraries, settings=None, interrupted=INTERRUPTED):
    """Parse the arguments and call ``main`` with its settings.

    What the user can mend is one line on standard error and status 2.

    ``libraries`` are what takes seconds to import: ``--help`` and wrong arguments do not wait for it, and an interrupt
    meanwhile ends the process at once. ``settings(args, parser)`` makes the settings of what was parsed, and raises
    UserError where arguments do not go together; default: ``args`` as they are. ``interrupted`` says what an interrupt
    leaves behind.
    """
    sys.stdout.reconfigure(errors="backslashreplace")  # class folders may have any name
    try:
        args = parser.parse_args()
        asked = settings(args, parser) if settings else args
        for library in libraries:
            importlib.import_module(library)
        raise_interrupts()
        main(asked)
        sys.stdout.flush()
    except UserError as error:
        _stop(parser, error)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        _stop(parser, f"{error.filename or 'input or output'}: {error.strerror or error}")
    except RuntimeError as error:
        if type(error).__name__ == "OutOfMemoryError":  # torch's
            _stop(parser, "out of GPU memory: use a smaller --batch_size")
        # torch raises this wherever the main process is when a worker process dies
        if not re.search("DataLoader worker .*(killed by signal|exited unexpectedly)", str(error)):
            raise
        _stop(parser, WORKER_DIED)
    except KeyboardInterrupt:
        print(f"\n{parser.prog}: interrupted; {interrupted}", file=sys.stderr)
        sys.exit(STATUS)
    finally:
        end_quietly()


def _stop(parser, message):
    text = printable(" ".join(str(message).split()))
    print(f"{parser.prog}: error: {shortened(text, LONGEST_MESSAGE)}", file=sys.stderr)
    sys.exit(2)


# --------------------------------------------------------------------------------------------------------------------
# How every stage ends: what was written where, what can be run next, and last the file to open first.


OPEN_FIRST = ("index.html", "_card.png", ".md", "_concepts.csv", ".png")  # ends of names, the best one first


def print_end(written, commands, open_first=None, how=None):
    """Print the last lines of a stage.

    Parameters
    ----------
    written : list of Path or str
        What has not been said to be written yet.
    commands : list of (str, str)
        What for, and the command, of which the first is for ``next``.
    open_first : Path, optional
        The file to open first. Default: of what was written, the one that says most to people.
    how : str, optional
        How it is opened, where it is not for people's eyes.
    """
    if written:
        print("\nwrote " + "\n      ".join(map(str, written)))
    for what, command in commands:
        print(f"{what}: {command}")
    open_first = open_first or best_to_open(written)
    if open_first:
        print(f"open first{f' ({how})' if how else ''}: {open_first}")


def best_to_open(paths):
    """Of some files, the one that says most to people; None where none of them is for people."""
    places = [(OPEN_FIRST.index(end), number) for number, path in enumerate(paths) for end in OPEN_FIRST
              if str(path).endswith(end)]  # fmt: skip
    return paths[min(places)[1]] if places else None


# --------------------------------------------------------------------------------------------------------------------
# Ctrl-C ends a script with one line and status 130, from its first line on.
#
# Imported first: while libraries are imported, an exception could be lost in somebody's ``except`` or a callback, and
# nothing is worth tidying up. ``raise_interrupts`` hands over to KeyboardInterrupt once the work begins, and
# ``end_quietly`` takes over when it has ended.


STATUS = 130


def _end_at_once(*_):
    os.write(2, f"\n{os.path.basename(sys.argv[0])}: interrupted before anything was done\n".encode())
    os._exit(STATUS)


def raise_interrupts():
    """From here on an interrupt is a KeyboardInterrupt, as it usually is."""
    if signal.getsignal(signal.SIGINT) is _end_at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def end_quietly():
    """From here on, while Python shuts down, an interrupt has nothing to say: it would be a traceback of somebody's."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, lambda *_: os._exit(STATUS))


if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where it is ignored, as in background jobs
    signal.signal(signal.SIGINT, _end_at_once)
