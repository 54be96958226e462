"""Suggestions of similar known names, for error messages about unknown ones."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from difflib import SequenceMatcher

#: The most known names that a message lists in full; of a longer list it shows the nearest.
SHORT = 9
#: The number of near names in a message.
NEAREST = 3
#: The smallest similarity of a suggestion, which is also that of `difflib.get_close_matches`.
ALIKE = 0.6
#: The fewest letters of a part of a name that suggest the whole name.
PART = 3


def nearest(given: str, known: Collection[str]) -> list[str]:
    """Return the known names that are most similar to the given one, the best first."""
    return sorted(dict.fromkeys(known), key=lambda name: -_likeness(given, name))[:NEAREST]


def alike(given: str, known: Collection[str]) -> list[str]:
    """Return those of the nearest names that are similar enough to suggest, the best first."""
    return [name for name in nearest(given, known) if _likeness(given, name) >= ALIKE]


def suggestion(given: str, known: Sequence[str], command: str | None = None) -> str:
    """Return a suggestion for an unknown name, as the end of an error message.

    A short list of known names is printed in full; of a long one, only the nearest names.

    Args:
        given: The unknown name.
        known: The known names.
        command: The command that prints all known names.

    Example:
        >>> suggestion("qick", ["quick", "standard", "deep"])
        '; did you mean quick? known: quick, standard, deep'
        >>> suggestion("x", ["quick", "standard", "deep"])
        '; known: quick, standard, deep'
    """
    likely = alike(given, known)
    asked = f"; did you mean {_either(likely)}?" if likely else ""
    if len(known) <= SHORT:
        return f"{asked or ';'} known: {', '.join(known) or 'none'}"
    if not asked:
        asked = f"; the nearest of {len(known)} are {', '.join(nearest(given, known))};"
    return f"{asked} `{command}` prints all" if command else asked.removesuffix(";")


def _either(names: Sequence[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} or {last}" if first else last


def _likeness(given: str, name: str) -> float:
    """Return the similarity of two names, from 0 to 1, regardless of case and kind of dash."""
    one, other = (word.lower().replace("-", "_") for word in (given, name))
    ratio = SequenceMatcher(None, one, other, autojunk=False).ratio()
    part = len(one) >= PART and one in other
    return max(ratio, ALIKE) if part else ratio
