"""Command line: flags that several scripts share, their checks, and errors in one line."""

import os
import re
import sys

import torch

from utils.errors import UserError

WORKER_DIED = "a process that decodes images was killed (memory or /dev/shm short?): use fewer --num_workers"


def run(main, parser):
    """Parse the arguments and call ``main``; what the user can mend is one line on standard error and status 2."""
    sys.stdout.reconfigure(errors="backslashreplace")  # class folders may have any name
    try:
        main(parser.parse_args())
    except UserError as error:
        _stop(parser, error)
    except torch.cuda.OutOfMemoryError:
        _stop(parser, "out of GPU memory: use a smaller --batch_size")
    except RuntimeError as error:
        # torch raises this wherever the main process is when a worker process dies
        if not re.search("DataLoader worker .*(killed by signal|exited unexpectedly)", str(error)):
            raise
        _stop(parser, WORKER_DIED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (ConnectionError, EOFError):  # what is left of the connection to such a process
        _stop(parser, WORKER_DIED)
    except OSError as error:
        _stop(parser, f"{error.filename or 'input or output'}: {error.strerror or error}")
    except KeyboardInterrupt:
        print(
            f"\n{parser.prog}: interrupted; finished files are whole, the same command goes on from them",
            file=sys.stderr,
        )
        sys.exit(130)


def _stop(parser, message):
    print(f"{parser.prog}: error: {' '.join(str(message).split())}", file=sys.stderr)
    sys.exit(2)
