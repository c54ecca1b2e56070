"""How every stage ends: what was written where, what can be run next, and last the file to open first."""

from collections.abc import Sequence
from pathlib import Path

OPEN_FIRST = ("index.html", "_card.png", ".md", "_concepts.csv", ".png")  # ends of names, the best one first


def print_end(
    written: Sequence[Path | str],
    commands: Sequence[tuple[str, str]],
    *,
    open_first: Path | str | None = None,
    opened_by: str | None = None,
) -> None:
    """Print the last lines of a stage.

    Parameters
    ----------
    written
        Files that the stage has not named yet.
    commands
        (purpose, command) pairs; the purpose of the first is ``next``.
    open_first
        The file to open first. Default: the one of ``written`` that tells people most.
    opened_by
        How it is opened, where it is not for people to look at.
    """
    if written:
        print("\nwrote " + "\n      ".join(map(str, written)))
    for purpose, command in commands:
        print(f"{purpose}: {command}")
    open_first = open_first or best_to_open(written)
    if open_first:
        print(f"open first{f' ({opened_by})' if opened_by else ''}: {open_first}")


def best_to_open(paths: Sequence[Path | str]) -> Path | str | None:
    """The file that tells people most; None where none of them is for people."""
    for ending in OPEN_FIRST:
        for path in paths:
            if str(path).endswith(ending):
                return path
    return None
