"""Numbers as text: a value that could not be measured is a dash in tables for people, and empty in CSV."""

from math import isnan

DASH = "–"
HYPHEN = "-"


def formatted(value: float | None, spec: str = ".2f", missing: str = DASH) -> str:
    """A number by a format specification; ``missing`` where it is None or NaN."""
    return missing if value is None or isnan(value) else format(value, spec)


def csv_number(value: float | None) -> str:
    """A number for a CSV file, with six digits; empty if there is no value."""
    return formatted(value, ".6g", missing="")


def interval_text(low: float, high: float, spec: str = "+.3f", label: str = "95 % ") -> str:
    """An interval to follow a mean, in parentheses; empty if there is none."""
    return "" if isnan(low) else f" ({label}{low:{spec}} to {high:{spec}})"
