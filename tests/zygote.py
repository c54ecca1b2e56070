"""Run scripts as processes forked from one that has imported what they need.

Importing torch takes seconds and forking milliseconds. Reads commands as lines of JSON (script, arguments, cwd, env,
stdout and stderr as paths) and answers each with the exit status; started by conftest.run_script.
"""

import json
import os
import runpy
import sys
import traceback

import torchvision  # noqa: F401  (imported for the forked scripts)


def run(command):
    """The forked process: become the script, and leave with its exit status."""
    os.chdir(command["cwd"])
    os.environ.update(command["env"])
    for descriptor, path in ((1, command["stdout"]), (2, command["stderr"])):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    sys.argv = [command["script"], *command["arguments"]]
    status = 0
    try:
        runpy.run_path(command["script"], run_name="__main__")
    except SystemExit as stop:
        status = stop.code or 0
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            run(json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
