"""Tables for a paper in LaTeX, with booktabs: letters alone that every engine and font encoding has."""

import re
import unicodedata

BEFORE = r"% Needs \usepackage{booktabs}. It is written again with every new result: \input it, or copy it." + "\n"
CHARACTERS = {
    **{"\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", '"': r"{\char34}"},
    **{character: f"\\{character}" for character in "{}$&#%_"},
    **{"<": "$<$", ">": "$>$", "|": "$|$", "[": "{[}", "*": "{*}"},  # the last two mean something behind a line's end
    **{"–": "--", "—": "---", "‘": "`", "’": "'", "“": "``", "”": "''", "…": r"\ldots{}"},
    **{"±": r"$\pm$", "×": r"$\times$", "−": "$-$", "≥": r"$\ge$", "≤": r"$\le$", "γ": r"$\gamma$", "τ": r"$\tau$"},
    **{"ρ": r"$\rho$", "ß": r"\ss{}", "æ": r"\ae{}", "Æ": r"\AE{}", "œ": r"\oe{}", "Œ": r"\OE{}", "ø": r"\o{}"},
    **{"Ø": r"\O{}", "ł": r"\l{}", "Ł": r"\L{}", "ı": r"\i{}"},
}
MARKS = "\u0300\u0301\u0302\u0303\u0308\u0304\u0306\u0307\u030c\u030b\u030a\u0327"
ACCENTS = dict(zip(MARKS, "`'^~\"=u.vHrc", strict=True))


def escaped(text):
    """Text as LaTeX that prints it; a character that plain LaTeX cannot print is named by its number, ``U+4E2D``."""
    return "".join(map(_escaped, unicodedata.normalize("NFC", text)))


def _escaped(character):
    if character in CHARACTERS:
        return CHARACTERS[character]
    if character.isascii() and character.isprintable():
        return character
    letter, *accents = unicodedata.normalize("NFD", character)
    if len(accents) == 1 and letter.isascii() and accents[0] in ACCENTS:
        return f"\\{ACCENTS[accents[0]]}{{{letter}}}"
    return f"\\texttt{{U+{ord(character):04X}}}"


def stacked(text):
    """The words of a column's heading above one another."""
    words = r" \\ ".join(escaped(word) for word in text.split())
    return rf"\shortstack[r]{{{words}}}" if " " in words else words


def tabular(columns, header, *blocks):
    """A table without a frame, between whose blocks of rows there are rules.

    Parameters
    ----------
    columns : str
        The alignment of each, ``l`` or ``r``.
    header : list of str
        As LaTeX.
    blocks : lists of rows
        Each a list of str, which are escaped; a minus is set as one.
    """

    def cell(text):
        return re.sub(r"(?<!\S)-(?=\d)", "$-$", escaped(text))

    lines = [f"\\begin{{tabular}}{{@{{}}{columns}@{{}}}}", r"\toprule", " & ".join(header) + r" \\"]
    for rows in filter(None, blocks):
        lines += [r"\midrule", *(" & ".join(map(cell, row)) + r" \\" for row in rows)]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])


def floating(caption, table):
    """A table across both columns of a paper, in small print; ``caption`` is escaped."""
    small = r"\scriptsize\setlength{\tabcolsep}{3pt}"
    parts = [r"\begin{table*}", rf"\centering{small}", f"\\caption{{{escaped(caption)}}}", table, r"\end{table*}"]
    return "\n".join([*parts, ""])


def comment(text):
    """Lines that LaTeX leaves out."""
    return "".join(f"% {line}\n" for line in text.split("\n"))
