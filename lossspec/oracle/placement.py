"""How the axes of a call map to the axes that a definition sees."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lossspec.spec.shapes import Shape


@dataclass(frozen=True)
class Placed:
    """How a tensor of a call lies in the definition's view: loop axes first, core axes last."""

    order: tuple[int, ...]  # transposes the call's axes into loop order, then core order
    view: tuple[int, ...]  # its shape there, with 1 for every loop axis that it lacks
    core: int

    def enter(self, array: np.ndarray, loop: tuple[int, ...]) -> np.ndarray:
        """Return a tensor in the definition's view, broadcast over the loop axes."""
        moved = array.transpose(self.order).reshape(self.view)
        return np.broadcast_to(moved, loop + self.view[len(self.view) - self.core :])

    def leave(self, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Back to the call's axes; what was spread over the loop is summed."""
        spread = tuple(
            i for i in range(len(self.view) - self.core) if self.view[i] == 1 != array.shape[i]
        )
        summed = array.sum(axis=spread, keepdims=True) if spread else array
        permuted = tuple(shape[i] for i in self.order)
        return summed.reshape(permuted).transpose(np.argsort(self.order))


def placed_axes(array: np.ndarray, axes: tuple[str, ...], contract: Shape) -> Placed:
    """Return how a tensor with these axes lies in the view of a definition."""
    loop = [axes.index(name) for name in contract.result if name in axes]
    ones = [i for i, name in enumerate(axes) if name == "1"]
    core = [i for i, name in enumerate(axes) if name not in (*contract.result, "1")]
    view = [array.shape[axes.index(name)] if name in axes else 1 for name in contract.result]
    view += [array.shape[i] for i in core]
    return Placed(tuple(loop + core + ones), tuple(view), len(core))
