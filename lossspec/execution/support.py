"""The operations of a call, observed to infer what an implementation supports."""

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
    """Return whether the numbers of a result were computed outside torch's operations.

    The numbers of the inputs are followed through every operation of torch. If they do not reach
    the result, it was computed elsewhere: by NumPy, from Python numbers or by a foreign kernel.

    Args:
        under_test: The implementation under test.
        case: The case to run.
        device: The device of the tensors.
        backward: Whether to examine the gradients instead of the result.
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
        return True  # a composition of torch's operations would not raise in a dispatch mode
    if not backward:
        return not flow.reaches(value)
    gradients = [getattr(tensor, "grad", None) for tensor in inputs.values()]
    return not any(flow.reaches(gradient) for gradient in gradients)


class _Followed:
    """The tensors that the numbers of some tensors reach through torch's operations.

    A tensor is identified by its storage, which a detached tensor shares with the original.
    Storages are kept alive, so that their identities are not reused during the call. If the bytes
    of a storage change between two operations, they were written from outside torch, and the
    storage is no longer followed.
    """

    def __init__(self) -> None:
        super().__init__()
        #: Each followed storage and its bytes, by its identity.
        self.followed: dict[int, tuple[torch.UntypedStorage, torch.Tensor]] = {}

    def follow(self, things: Iterable[Any]) -> None:
        """Add tensors that the followed numbers have reached."""
        for thing in things:
            if isinstance(thing, torch.Tensor) and (storage := _storage(thing)) is not None:
                self.followed[storage_identity(storage)] = storage, _bytes(storage).clone()

    def reaches(self, thing: Any) -> bool:
        """Return whether the followed numbers have reached a tensor."""
        storage = _storage(thing) if isinstance(thing, torch.Tensor) else None
        if storage is None or storage_identity(storage) not in self.followed:
            return False
        _, before = self.followed[storage_identity(storage)]
        if before.is_meta:
            return True  # a meta tensor has no bytes that could change
        return torch.equal(_bytes(storage), before)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = tree_leaves((args, kwargs))
        # An operation of another library, outside the namespace aten, computes outside torch.
        carries = func.namespace == "aten" and not _makes_new(func)
        reached = carries and any(self.reaches(thing) for thing in given)
        made = func(*args, **(kwargs or {}))
        if reached:
            self.follow(tree_leaves(made))
        return made


@cache
def _makes_new(func: Any) -> bool:
    """Return whether an operation uses only the shape and dtype of its tensors: `empty_like`, say.

    Such an operation has an argument `pin_memory`, like all that allocate. It has no
    `non_blocking`, which the operations that copy have.
    """
    names = argument_names(func)
    return "pin_memory" in names and "non_blocking" not in names


def _storage(tensor: torch.Tensor) -> torch.UntypedStorage | None:
    """Return the storage of a tensor, or None if it has none, such as a sparse tensor."""
    try:
        return tensor.untyped_storage()
    except (RuntimeError, NotImplementedError):
        return None


def _bytes(storage: torch.UntypedStorage) -> torch.Tensor:
    """Return a uint8 tensor that shares the bytes of a storage."""
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)


@cache
def _flow() -> type[Any]:
    """Return the dispatch mode that follows numbers; made late, since its base is imported late."""
    return type("Flow", (_Followed, dispatch_mode()), {})
