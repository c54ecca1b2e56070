"""A Python that has imported what the project's scripts need, from which tests.scripts.python forks them.

Importing torch takes seconds and forking milliseconds. Listens on a Unix socket until standard input ends. A request
has three descriptors and, marshalled, what ``Request`` lists; the answers are two lines: the process, and how it ended
(as os.waitstatus_to_exitcode has it). A process whose connection ends before is killed.
"""

import marshal
import os
import resource
import runpy
import select
import signal
import socket
import sys
import traceback
import types
from pathlib import Path
from typing import NamedTuple

LIBRARIES = ("torchvision", "scipy.stats", "matplotlib.figure", "matplotlib.backends.backend_agg", "tqdm")


class Request(NamedTuple):
    arguments: list  # of python: a script's path, -m and a module, or -c and code, and what follows
    cwd: str
    environment: dict
    group: int  # the process group to join
    ignores_interrupts: bool
    largest_file: tuple  # a limit, in bytes


def serve(listener):
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for supervisors
    while listener in select.select([listener, sys.stdin], [], [])[0]:
        connection, _ = listener.accept()
        if os.fork() == 0:
            supervise(connection)
        connection.close()


def supervise(connection):
    """Start what is asked for, and answer when it has ended."""
    wake, wakes = os.pipe()
    os.set_blocking(wakes, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakes)
    with connection, connection.makefile("rb") as file:
        _, descriptors, _, _ = socket.recv_fds(connection, 1, 3)
        request = Request(*marshal.load(file))
        child = os.fork()
        if child == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            become(request, descriptors)
        for descriptor in (*descriptors, 0, 1, 2):
            os.close(descriptor)
        connection.sendall(b"%d\n" % child)
        if connection in select.select([connection, wake], [], [])[0]:
            os.kill(child, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        try:
            connection.sendall(b"%d\n" % status)
        finally:
            os._exit(0)


def become(request, descriptors):
    """Be the process that is asked for, to its end."""
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    try:
        os.setpgid(0, request.group)
    except PermissionError:  # of another session
        os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN if request.ignores_interrupts else signal.default_int_handler)
    resource.setrlimit(resource.RLIMIT_FSIZE, request.largest_file)
    os.chdir(request.cwd)
    os.environ.clear()
    os.environ.update(request.environment)
    status = 1
    if os.environ.get("FIGURES") in FIGURES:
        FIGURES[os.environ["FIGURES"]]()
    try:
        run(request.arguments)
        status = 0
    except SystemExit as stop:
        status = stop.code or 0
    except BaseException:
        traceback.print_exc()
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        status = 120
    sys.stderr.flush()
    os._exit(status)


def leave_out_figures():
    """Scripts go through all that they do, but figures are empty files: drawing takes most of their time."""
    from matplotlib.figure import Figure

    Figure.savefig = lambda figure, file, **options: file.write(b"figure")
    Figure.draw_without_rendering = lambda figure: None


def draw_coarsely():
    """Figures are drawn, in few pixels, and their PDF is empty: it takes as long as all the rest of the drawing."""
    from matplotlib.figure import Figure

    savefig = Figure.savefig

    def savefig_coarsely(figure, file, **options):
        if options.get("format") == "pdf":
            file.write(b"figure")
        else:
            savefig(figure, file, **{**options, "dpi": 50})

    Figure.savefig = savefig_coarsely


FIGURES = {"empty": leave_out_figures, "coarse": draw_coarsely}  # by $FIGURES; anything else is drawn as always


def run(arguments):
    """What ``python ARGUMENTS`` does."""
    if arguments[0] == "-u":  # torchrun's
        sys.stdout.reconfigure(write_through=True)
        arguments = arguments[1:]
    first, *rest = arguments
    given = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = ["" if first in ("-", "-c", "-m") else str(Path(first).resolve().parent), *given, *PATH]
    sys.dont_write_bytecode, sys.pycache_prefix = False, str(Path(sys.executable).parent / "bytecode")
    if first == "-":
        sys.argv = [*arguments]
        sys.modules["__main__"] = types.ModuleType("__main__")  # without the names of this one
        exec(compile(sys.stdin.read(), "<stdin>", "exec"), vars(sys.modules["__main__"]))
    elif first == "-c":
        sys.argv = ["-c", *rest[1:]]
        exec(rest[0], vars(sys.modules["__main__"]))
    elif first == "-m":
        sys.argv = [*rest]
        sys.path[0] = os.getcwd()
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = [*arguments]
        runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
    PATH = [path for path in sys.path[1:] if path not in os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    sys.executable, address = sys.argv[1:]
    with socket.socket(socket.AF_UNIX) as own:
        own.bind(address)
        own.listen(64)
        print("listening", flush=True)
        for library in LIBRARIES:
            __import__(library)
        serve(own)
