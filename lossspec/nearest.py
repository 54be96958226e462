"""Known names that are like one that is not known, for error messages."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from difflib import SequenceMatcher

#: So many known names are written out in a message; of more, the nearest ones.
SHORT = 9
#: How many near names are shown.
NEAREST = 3
#: How like the given name one must be to be asked for; `difflib.get_close_matches` takes the same.
ALIKE = 0.6
#: Letters that a part of a name needs to be taken for it.
PART = 3


def nearest(given: str, known: Collection[str]) -> list[str]:
    """Return the known names that are most like the given one, the best first."""
    return sorted(dict.fromkeys(known), key=lambda name: -_likeness(given, name))[:NEAREST]


def alike(given: str, known: Collection[str]) -> list[str]:
    """Return the near names of which any may have been meant, the best first."""
    return [name for name in nearest(given, known) if _likeness(given, name) >= ALIKE]


def suggestion(given: str, known: Sequence[str], command: str | None = None) -> str:
    """Return what to type instead, as the rest of a sentence.

    A short list is written out. Of a long one the nearest names are shown, with the command that
    prints all of it.

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
    """How like two names are, from 0 to 1; case and the kind of dash tell nothing."""
    one, other = (word.lower().replace("-", "_") for word in (given, name))
    ratio = SequenceMatcher(None, one, other, autojunk=False).ratio()
    part = len(one) >= PART and one in other
    return max(ratio, ALIKE) if part else ratio
