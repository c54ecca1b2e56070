"""How every stage ends: what was written where, what can be run next, and last the file to open first."""

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
