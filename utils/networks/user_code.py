"""Calls into user-supplied code, above all networks, whose errors are reported in one line."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from utils.errors import NO_MEMORY, UserError

# Neither is a fault of the code that runs when memory ends, and hiding it would make results depend on the machine
OUT_OF_MEMORY = (MemoryError, torch.OutOfMemoryError)


def lacks_memory(error: BaseException) -> bool:
    """Whether an error says that memory does not suffice, on any device."""
    return isinstance(error, OUT_OF_MEMORY) or (isinstance(error, RuntimeError) and bool(NO_MEMORY.search(str(error))))


@contextmanager
def user_code(explain: Callable[[BaseException], Exception]) -> Iterator[None]:
    """While in the block, an error is raised as what ``explain`` makes of it.

    Only a call into user-supplied code (or a library of which the exceptions cannot be listed) belongs in the block:
    an error of ours would be reported as one of that code. UserErrors and out-of-memory errors pass unchanged.
    """
    try:
        yield
    except (Exception, SystemExit) as error:
        if isinstance(error, UserError) or lacks_memory(error):
            raise
        raise explain(error) from error


def in_one_line(error: BaseException) -> str:
    """Type and message of an error."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
