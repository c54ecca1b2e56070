"""The other end of ``tests/zygote.py``: ask for a process that is forked instead of started, and wait for its end.

As a script it is the process: it gives its own descriptors, takes the signals of its group like the other, and ends as
that one ends. What is imported here takes milliseconds without Python's site.
"""

import marshal
import os
import resource
import signal
import socket
import sys


def fork(address, arguments, descriptors, cwd, environment, started=None):
    """Run what ``python ARGUMENTS`` runs, with these descriptors as its own: the exit status, or minus the signal.

    ``started`` is called with the number of the process.
    """
    ignores = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    request = ([*map(str, arguments)], str(cwd), environment, os.getpgrp(), ignores, limit)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        socket.send_fds(connection, [b" "], descriptors)
        connection.sendall(marshal.dumps(request))
        with connection.makefile("rb") as answers:
            process = int(answers.readline())
            if started:
                started(process)
            return int(answers.readline())


def end_as(status):
    """End this process as another one has ended."""
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


def stand_for(process):
    """Pass on what is sent to this process alone; an interrupt is sent to the group."""
    signal.signal(signal.SIGTERM, lambda *_: os.kill(process, signal.SIGTERM))
    signal.signal(signal.SIGINT, signal.SIG_IGN)


if __name__ == "__main__":
    end_as(fork(sys.argv[1], sys.argv[2:], (0, 1, 2), os.getcwd(), dict(os.environ), stand_for))
