"""How the axes of a call map to the axes that a definition sees."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lossspec.spec.shapes import Shape


@dataclass(frozen=True)
class Placed:
    """How the axes of a call's tensor map to the axes that `define` sees.

    `define` sees the *loop* axes, those of the unreduced loss, first and the *core* axes last.

    Attributes:
        order: The permutation of the call's axes: loop axes, then core axes, then axes of size 1.
        view: The shape for `define`, with size 1 for each loop axis that the tensor lacks.
        core: How many of the last axes are core axes.
    """

    order: tuple[int, ...]
    view: tuple[int, ...]
    core: int

    def enter(self, array: np.ndarray, loop: tuple[int, ...]) -> np.ndarray:
        """Return a call's tensor in the axes of `define`, broadcast to the loop axes `loop`."""
        moved = array.transpose(self.order).reshape(self.view)
        return np.broadcast_to(moved, loop + self.view[len(self.view) - self.core :])

    def leave(self, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Return an array in the call's axes, summed over the axes that `enter` broadcast.

        Args:
            array: An array in the axes of `define`.
            shape: The shape of the call's tensor.
        """
        spread = tuple(
            i for i in range(len(self.view) - self.core) if self.view[i] == 1 != array.shape[i]
        )
        summed = array.sum(axis=spread, keepdims=True) if spread else array
        permuted = tuple(shape[i] for i in self.order)
        return summed.reshape(permuted).transpose(np.argsort(self.order))


def placed_axes(
    array: np.ndarray, axes: tuple[str, ...], contract: Shape, coupled: str = ""
) -> Placed:
    """Return how a tensor maps to the axes of `define`.

    Args:
        array: The tensor of the call.
        axes: The name of each of its axes.
        contract: The shape contract of the call.
        coupled: The axis of coupled rows. It is a core axis, since each loss depends on all rows,
            and a loop axis, since there is a loss for each row.
    """
    looped = [name for name in contract.result if name != coupled]
    loop = [axes.index(name) for name in looped if name in axes]
    ones = [i for i, name in enumerate(axes) if name == "1"]
    core = [i for i, name in enumerate(axes) if name not in (*looped, "1")]
    view = [
        array.shape[axes.index(name)] if name in axes and name != coupled else 1
        for name in contract.result
    ]
    view += [array.shape[i] for i in core]
    return Placed(tuple(loop + core + ones), tuple(view), len(core))
