"""Parameters: arguments of a loss that are plain numbers, switches or words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """An argument that is a plain number, switch or word."""

    default: Any
    #: Valid ones worth drawing, the default first.
    values: tuple[Any, ...]
    #: Ones that must raise.
    refused: tuple[Any, ...] = ()
    #: The names of the forms that know it; all of them when empty.
    forms: tuple[str, ...] = ()
    #: Whether a value is a Python expression in torch; a call gets what it stands for.
    code: bool = False
    #: Values with which only plain backward is documented to work, once.
    limited: tuple[Any, ...] = ()
    #: What it may be as well where a signature lacks it, such as an epsilon of 0.
    absent: Any = None
    #: Whether a value other than 0 gives every class a share of the target, as the smoothing of
    #: labels does: then no class may have a score of -inf.
    smooths: bool = False
    #: What a reader should know.
    doc: str = ""

    @property
    def exact(self) -> bool:
        """Whether rounding cannot move it, as an integer or a switch."""
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
    """A real parameter with its default, other values worth drawing, and refused ones.

    What not every dtype holds exactly, such as 0.3 or an epsilon of 1e-8, `define` passes through
    `maths.constant`: it shows whether a parameter is kept in a narrower dtype than the tensors'.
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


def switch(default: bool, *, forms: Sequence[str] = (), doc: str = "") -> Parameter:
    """A parameter that is on or off."""
    return Parameter(default=default, values=(default, not default), forms=tuple(forms), doc=doc)


def ignore_index(*, forms: Sequence[str] = (), doc: str = "") -> Parameter:
    """The target value that does not count; it need not be a class."""
    return Parameter(
        default=-100,
        values=(-100, -1, 255, 0, 1, -3),
        forms=tuple(forms),
        doc=doc or "Target value that is ignored: it adds nothing to the loss or its gradient.",
    )
