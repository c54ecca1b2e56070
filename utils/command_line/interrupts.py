"""Ctrl-C ends a script with one line and status 130, from its first line on.

Imported first: while libraries are imported, an exception could be lost in somebody's ``except`` or a callback, and
nothing is worth tidying up. ``raise_interrupts`` hands over to KeyboardInterrupt once the work begins, and
``end_quietly`` takes over when it has ended.
"""

import os
import signal
import sys

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
