"""What an implementation supports, found by watching a call."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

import torch

from lossspec.cases.case import Case
from lossspec.execution.call import arguments, constructed, handed
from lossspec.execution.implementation import LossUnderTest
from lossspec.execution.outcome import backward_from, differentiable
from lossspec.execution.timeout import STOPS
from lossspec.execution.torch_private import (
    argument_names,
    dispatch_mode,
    storage_identity,
    tree_leaves,
)


def leaves_torch(
    under_test: LossUnderTest, case: Case, device: str = "cpu", *, backward: bool = False
) -> bool:
    """Whether the result's numbers were computed outside torch's operations.

    It follows the numbers of the inputs through every operation of torch. A result that none of
    them reaches was made of numbers that left torch, by whatever name: through NumPy, through a
    Python number, or in a kernel that writes to memory.

    backward : ask of the gradients instead of the result.
    """
    flow = _flow()()
    inputs = arguments(under_test, case, device)
    try:
        call = constructed(under_test, case, inputs, {})
        passed = handed(under_test, case, inputs)
        flow.follow([*inputs.values(), *passed.values()])
        with flow:
            value = call(passed)
            if backward and differentiable(value):
                backward_from(value, case)
    except STOPS:
        raise
    except BaseException:
        return True  # it can only be told that it is no composition of torch's operations
    if not backward:
        return not flow.reaches(value)
    gradients = [getattr(tensor, "grad", None) for tensor in inputs.values()]
    return not any(flow.reaches(gradient) for gradient in gradients)


class _Followed:
    """Notes every tensor that numbers of the followed ones reach through torch's operations.

    A tensor is known by its storage, which a detached one shares with the original. Storages are
    kept, so that no other one takes their place while the call lasts. A storage whose bytes change
    between two operations was written to from outside torch, and is followed no longer.
    """

    def __init__(self) -> None:
        super().__init__()
        #: Each followed storage and its bytes, by its identity.
        self.followed: dict[int, tuple[torch.UntypedStorage, torch.Tensor]] = {}

    def follow(self, things: Iterable[Any]) -> None:
        """Note tensors that numbers have reached."""
        for thing in things:
            if isinstance(thing, torch.Tensor) and (storage := _storage(thing)) is not None:
                self.followed[storage_identity(storage)] = storage, _bytes(storage).clone()

    def reaches(self, thing: Any) -> bool:
        """Whether a tensor holds such numbers."""
        storage = _storage(thing) if isinstance(thing, torch.Tensor) else None
        if storage is None or storage_identity(storage) not in self.followed:
            return False
        _, before = self.followed[storage_identity(storage)]
        if before.is_meta:
            return True  # there are no bytes that could have changed
        return torch.equal(_bytes(storage), before)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = tree_leaves((args, kwargs))
        # What an operation of another library computes is outside torch.
        carries = func.namespace == "aten" and not _makes_new(func)
        reached = carries and any(self.reaches(thing) for thing in given)
        made = func(*args, **(kwargs or {}))
        if reached:
            self.follow(tree_leaves(made))
        return made


@cache
def _makes_new(func: Any) -> bool:
    """Whether an operation takes but the shape and dtype of its tensors, as `empty_like` does.

    Such an operation takes `pin_memory` as whatever allocates does, and nothing to copy.
    """
    names = argument_names(func)
    return "pin_memory" in names and "non_blocking" not in names


def _storage(tensor: torch.Tensor) -> torch.UntypedStorage | None:
    """The storage of a tensor; None where it has none, as a sparse one."""
    try:
        return tensor.untyped_storage()
    except (RuntimeError, NotImplementedError):
        return None


def _bytes(storage: torch.UntypedStorage) -> torch.Tensor:
    """The bytes of a storage as a tensor that shares them."""
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)


@cache
def _flow() -> type[Any]:
    """The class of modes that follow numbers; made on first use, for its base is torch's."""
    return type("Flow", (_Followed, dispatch_mode()), {})
