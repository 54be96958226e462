"""Parameters: arguments of a loss that are Python numbers, tuples of them, switches or words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """An argument of a loss that is a Python number, a tuple of numbers, a switch or a string."""

    default: Any
    #: The valid values that are drawn, the default first.
    values: tuple[Any, ...]
    #: Values that must raise.
    refused: tuple[Any, ...] = ()
    #: The names of the forms that take it; all forms if empty.
    forms: tuple[str, ...] = ()
    #: Whether a value is the source of a Python expression. A call gets the evaluated expression.
    code: bool = False
    #: Values with which torch documents only a single first-order backward to work.
    limited: tuple[Any, ...] = ()
    #: Another value that an implementation without the parameter may use, such as an epsilon of 0.
    absent: Any = None
    #: Whether a value other than 0 gives every class a share of the target, as label smoothing
    #: does. Then no class may have a score of -inf.
    smooths: bool = False
    #: For a tuple of numbers: the axis that has a number for each of its elements.
    along: str = ""
    #: The explanation that is printed on the page of the loss.
    doc: str = ""

    @property
    def exact(self) -> bool:
        """Whether every dtype represents it exactly, as an integer or a switch."""
        return self.code or isinstance(self.default, (bool, int, str))


def number(
    default: float,
    *also: float,
    refused: Sequence[Any] = (),
    forms: Sequence[str] = (),
    absent: float | None = None,
    smooths: bool = False,
    doc: str = "",
) -> Parameter:
    """Return a real parameter.

    `define` passes a value that not every dtype represents exactly, such as 0.3 or 1e-8, through
    `maths.constant`. Such values show whether an implementation keeps the parameter in a narrower
    dtype than that of the tensors.

    Args:
        default: The default.
        *also: Other valid values to draw.
        refused: Values that must raise.
        forms: The names of the forms that take it; all forms if empty.
        absent: As in `Parameter.absent`.
        smooths: As in `Parameter.smooths`.
        doc: The explanation that is printed on the page of the loss.
    """
    return Parameter(
        default=float(default),
        values=(float(default), *map(float, also)),
        refused=tuple(refused),
        forms=tuple(forms),
        absent=absent,
        smooths=smooths,
        doc=doc,
    )


def vector(
    default: Sequence[float],
    *also: Sequence[float],
    along: str = "",
    refused: Sequence[Sequence[float]] = (),
    forms: Sequence[str] = (),
    doc: str = "",
) -> Parameter:
    """Return a parameter that is a tuple of real numbers, such as one weight for each class.

    `define` gets the numbers along the last axis. They are rounded to the dtype.

    Args:
        default: The default.
        *also: Other valid values to draw, also of other lengths.
        along: The axis that has one of the numbers for each of its elements, if there is one. The
            size of this axis is the length of the tuple.
        refused: Values that must raise.
        forms: The names of the forms that take it; all forms if empty.
        doc: The explanation that is printed on the page of the loss.
    """

    def numbers(given: Sequence[float]) -> tuple[float, ...]:
        return tuple(map(float, given))

    return Parameter(
        default=numbers(default),
        values=(numbers(default), *map(numbers, also)),
        along=along,
        refused=tuple(map(numbers, refused)),
        forms=tuple(forms),
        doc=doc,
    )


def choice(
    default: str,
    *also: str,
    refused: Sequence[str] = (),
    forms: Sequence[str] = (),
    doc: str = "",
) -> Parameter:
    """Return a parameter that is one of several words.

    Args:
        default: The default.
        *also: The other words.
        refused: Words that must raise.
        forms: The names of the forms that take it; all forms if empty.
        doc: The explanation that is printed on the page of the loss.
    """
    return Parameter(
        default=default,
        values=(default, *also),
        refused=tuple(refused),
        forms=tuple(forms),
        doc=doc,
    )


def switch(default: bool, *, forms: Sequence[str] = (), doc: str = "") -> Parameter:
    """Return a parameter that is on or off.

    Args:
        default: The default.
        forms: The names of the forms that take it; all forms if empty.
        doc: The explanation that is printed on the page of the loss.
    """
    return Parameter(default=default, values=(default, not default), forms=tuple(forms), doc=doc)


def ignore_index(*, forms: Sequence[str] = (), doc: str = "") -> Parameter:
    """Return the parameter for the target value that is ignored; it need not be a class.

    Args:
        forms: The names of the forms that take it; all forms if empty.
        doc: The explanation that is printed on the page of the loss, in place of the standard one.
    """
    return Parameter(
        default=-100,
        values=(-100, -1, 255, 0, 1, -3),
        forms=tuple(forms),
        doc=doc or "Target value that is ignored: it adds nothing to the loss or its gradient.",
    )
