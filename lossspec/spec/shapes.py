"""Shape contracts, written as in the documentation of torch: `(N, C), (N) -> (N)`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

from lossspec.errors import SpecError

#: As in `(N, C, d1, ..., dk)`: one or more further axes.
_SPREAD = re.compile(r"d1, \.\.\., dk")
_AXES = r"\s*\([^()]*\)\s*"
_CONTRACT = re.compile(rf"({_AXES}(?:,{_AXES})*)->({_AXES})")
#: A name, a size of 1 or more, or a wildcard.
_AXIS = re.compile(r"[^\W\d]\w*|[1-9]\d*|\*|d\*")
#: The mark of an axis that repeats an axis of the same tensor. No name in a contract contains it.
_AGAIN = "'"


@dataclass(frozen=True)
class Shape:
    """One line of a shape contract, such as `(N, C), (N) -> (N)`.

    `*` stands for any number of axes, `d1, ..., dk` for one or more. These are the wildcard axes. A
    number stands for an axis of that size, as in `(N, 4)`; `define` does not see the axis `1`. If a
    tensor names an axis twice, as in `(N, N)`, both axes have one size: they are *tied*, and the
    second is called `N'`. Axes of the inputs that the result lacks are the *core* axes: `define`
    sees them last, in the order in which they are written.

    Attributes:
        text: The line.
        inputs: The names of the axes of each input.
        result: The names of the axes of the result.
        spread: How many axes the wildcard is expanded to; 0 before `expand`.
    """

    text: str
    inputs: tuple[tuple[str, ...], ...]
    result: tuple[str, ...]
    spread: int = 0

    @classmethod
    def parse(cls, text: str) -> Shape:
        """Return one line of a shape contract, parsed.

        Raises:
            SpecError: The line is not of the form `(..), (..) -> (..)`, or an axis is neither a
                name nor a size of 1 or more.
        """
        match = _CONTRACT.fullmatch(text)
        if match is None:
            raise SpecError(
                "a shape contract reads like '(N, C), (N) -> (N)', got "
                f"{text!r}; write the axes of each input and of the result in brackets"
            )

        def axes(group: str) -> tuple[str, ...]:
            group = _SPREAD.sub("d*", group)
            names = [axis.strip() for axis in group.split(",") if axis.strip()]
            for name in names:
                if _AXIS.fullmatch(name) is None:
                    raise SpecError(
                        f"an axis of a shape contract is a name, a size of 1 or more, '*' or "
                        f"'d1, ..., dk', got {name!r} in {text!r}"
                    )
            return tuple(_told_apart(names))

        inputs = tuple(axes(group) for group in re.findall(r"\(([^()]*)\)", match[1]))
        return cls(text, inputs, axes(match[2].strip(" ()")))

    @cached_property
    def fixed(self) -> dict[str, int]:
        """The size of each axis that is written as a number, and that of the axis `1`."""
        return {"1": 1} | {axis: int(root(axis)) for axis in self._every if root(axis).isdigit()}

    @cached_property
    def tied(self) -> dict[str, str]:
        """For each axis that repeats another one, as in `(N, N)`, the axis that it repeats."""
        return {axis: root(axis) for axis in self._every if axis != root(axis)}

    @property
    def _every(self) -> Iterator[str]:
        return (axis for axes in (*self.inputs, self.result) for axis in axes)

    def with_tied(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """Return the sizes of axes with those of the tied axes, which follow from the others."""
        tied = {again: sizes[axis] for again, axis in self.tied.items() if axis in sizes}
        return {**sizes, **tied}

    @property
    def core(self) -> tuple[str, ...]:
        """The core axes: those that the result lacks."""
        names = [a for axes in self.inputs for a in axes if a not in (*self.result, "1")]
        return tuple(dict.fromkeys(names))

    def expand(self, spread: int) -> Shape:
        """Return the contract with `*` and `d1, ..., dk` written out as `spread` axes."""

        def out(axes: tuple[str, ...]) -> tuple[str, ...]:
            written: list[str] = []
            for axis in axes:
                if axis in ("*", "d*"):
                    written += further_axes(spread)
                else:
                    written.append(axis)
            return tuple(written)

        return Shape(self.text, tuple(map(out, self.inputs)), out(self.result), spread)

    def axes(self, shape: str) -> tuple[str, ...]:
        """Return the axes of another tensor, whose shape is written like `(C)` or `(C, *)`."""
        return written_out(f"{shape} -> ()", self.spread).inputs[0]

    @property
    def spreads(self) -> range:
        """The numbers of axes that `*` (0 or more) or `d1, ..., dk` (1 or more) is expanded to."""
        axes = {axis for group in self.inputs for axis in group}
        if "*" in axes:
            return range(6)
        return range(1, 4) if "d*" in axes else range(1)


def root(axis: str) -> str:
    """Return the name of an axis as the contract writes it, which tied axes share."""
    return axis.rstrip(_AGAIN)


def _told_apart(names: Sequence[str]) -> Iterator[str]:
    """Yield the axes of a tensor; mark one that is named again, unless its size is always 1."""
    for i, name in enumerate(names):
        yield name if name == "1" else name + _AGAIN * names[:i].count(name)


def further_axes(count: int) -> list[str]:
    """Return the names of the axes that `*` or `d1, ..., dk` stands for: `d1`, `d2` and so on."""
    return [f"d{i + 1}" for i in range(count)]


def is_further(axis: str) -> bool:
    """Return whether `*` or `d1, ..., dk` stands for an axis of this name."""
    return re.fullmatch(r"d\d+", axis) is not None


@cache
def written_out(contract: str, spread: int) -> Shape:
    """Return a line of a shape contract, parsed and expanded to `spread` wildcard axes."""
    return Shape.parse(contract).expand(spread)
