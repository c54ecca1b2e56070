"""Tables for a paper in LaTeX, with booktabs, in letters that every engine and font encoding has."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

BEFORE = r"% Needs \usepackage{booktabs}. It is written again with every new result: \input it, or copy it." + "\n"
ESCAPED = {character: f"\\{character}" for character in "{}$&#%_"}
NAMED = {"\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", '"': r"{\char34}"}
IN_BRACES = {"[": "{[}", "*": "{*}"}  # both have a meaning after the end of a line
PUNCTUATION = {"–": "--", "—": "---", "‘": "`", "’": "'", "“": "``", "”": "''", "…": r"\ldots{}"}
RELATIONS = {"<": "$<$", ">": "$>$", "|": "$|$", "≥": r"$\ge$", "≤": r"$\le$"}
SIGNS = {"±": r"$\pm$", "×": r"$\times$", "−": "$-$", "γ": r"$\gamma$", "τ": r"$\tau$", "ρ": r"$\rho$"}
LIGATURES = {"ß": r"\ss{}", "æ": r"\ae{}", "Æ": r"\AE{}", "œ": r"\oe{}", "Œ": r"\OE{}"}
LETTERS = {"ø": r"\o{}", "Ø": r"\O{}", "ł": r"\l{}", "Ł": r"\L{}", "ı": r"\i{}"}
CHARACTERS = ESCAPED | NAMED | IN_BRACES | PUNCTUATION | RELATIONS | SIGNS | LIGATURES | LETTERS
MARKS = "\u0300\u0301\u0302\u0303\u0308\u0304\u0306\u0307\u030c\u030b\u030a\u0327"
ACCENTS = dict(zip(MARKS, "`'^~\"=u.vHrc", strict=True))


def escaped(text: str) -> str:
    """Text as LaTeX prints it; a character that plain LaTeX cannot print is given by its number, ``U+4E2D``."""
    return "".join(map(_escaped, unicodedata.normalize("NFC", text)))


def _escaped(character: str) -> str:
    if character in CHARACTERS:
        return CHARACTERS[character]
    if character.isascii() and character.isprintable():
        return character
    letter, *accents = list(unicodedata.normalize("NFD", character))
    if len(accents) == 1 and letter.isascii() and accents[0] in ACCENTS:
        return f"\\{ACCENTS[accents[0]]}{{{letter}}}"
    return f"\\texttt{{U+{ord(character):04X}}}"


def stacked(text: str) -> str:
    """The heading of a column in LaTeX, one word above the other."""
    words = r" \\ ".join(escaped(word) for word in text.split())
    return rf"\shortstack[r]{{{words}}}" if " " in words else words


def tabular(columns: str, header: list[str], *blocks: list[list[str]]) -> str:
    """A table without a frame, with a rule between blocks of rows.

    Parameters
    ----------
    columns
        The alignment of each column, ``l`` or ``r``.
    header
        Headings as LaTeX.
    blocks
        Rows of cells. The cells are escaped, and a hyphen before a digit becomes a minus.
    """

    def cell(text: str) -> str:
        return re.sub(r"(?<!\S)-(?=\d)", "$-$", escaped(text))

    lines = [f"\\begin{{tabular}}{{@{{}}{columns}@{{}}}}", r"\toprule", " & ".join(header) + r" \\"]
    for rows in filter(None, blocks):
        lines += [r"\midrule", *(" & ".join(map(cell, row)) + r" \\" for row in rows)]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])


def floating(caption: str, table: str, label: str = "") -> str:
    """A table across both columns of a paper, in small print; ``caption`` is escaped, ``label`` by default the same."""
    small = r"\scriptsize\setlength{\tabcolsep}{3pt}"
    titles = [f"\\caption{{{escaped(caption)}}}", f"\\label{{tab:{_label(label or caption)}}}"]
    return "\n".join([r"\begin{table*}", rf"\centering{small}", *titles, table, r"\end{table*}", ""])


def _label(caption: str) -> str:
    """The letters and digits of a caption, in words that are joined by hyphens."""
    plain = unicodedata.normalize("NFKD", caption).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9.]+", "-", plain).strip("-.")


def joined(parts: Iterable[str]) -> str:
    """A document of these parts; a label that occurs again gets a number."""
    seen: Counter[str] = Counter()

    def numbered(match: re.Match[str]) -> str:
        seen[match[1]] += 1
        return match[0] if seen[match[1]] == 1 else rf"\label{{{match[1]}-{seen[match[1]]}}}"

    return re.sub(r"^\\label\{([^}]*)\}$", numbered, "\n".join(parts), flags=re.MULTILINE)


def comment(text: str) -> str:
    """Lines that LaTeX ignores."""
    return "".join(f"% {line}\n" for line in text.split("\n"))
