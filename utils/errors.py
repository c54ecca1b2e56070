"""The one kind of error that is the user's to mend, and text that is fit for its message."""


class UserError(Exception):
    """What is wrong and what to do about it, in one line; a script prints it and exits with status 2."""


WORKER_DIED = "a process that decodes images was killed (memory or /dev/shm short?): use fewer --num_workers"


# --------------------------------------------------------------------------------------------------------------------
# Text from elsewhere, names of folders above all, fit for a terminal.


def printable(text):
    """``text`` with everything that is not printable escaped.

    A folder's name may hold what a terminal obeys, or bytes that are no text at all.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def shortened(text, length=40):
    return text if len(text) <= length else f"{text[:length]}..."


def quoted(text):
    """``text`` for a message: in quotes, printable, and cut where it is long."""
    return repr(shortened(text))
