"""Private names of torch, each with why no public name will do; no other module uses any.

Checked with torch 2.13.0 and 2.14.1: tests/test_private_names.py calls each of them. A torch that
has moved one of them breaks here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch


def dispatch_mode() -> type[Any]:
    """Return the base class of what sees every operation below autograd; none is public."""
    from torch.utils._python_dispatch import TorchDispatchMode

    return TorchDispatchMode


def tree_leaves(nested: Any) -> list[Any]:
    """List what stands in nested arguments, for which no function is public."""
    from torch.utils._pytree import tree_leaves as leaves

    return list(leaves(nested))


def argument_names(operation: Any) -> set[str]:
    """List the arguments of an operation that a mode sees, which only its schema names."""
    return {argument.name for argument in operation._schema.arguments}


def storage_identity(storage: torch.UntypedStorage) -> int:
    """Tell storages apart: two over the same memory differ, which no public name shows."""
    return int(storage._cdata)


def set_grad_enabled(on: bool) -> None:
    """Set grad mode and nothing else: the public name makes a context that remembers the former."""
    torch._C._set_grad_enabled(on)


def set_deterministic(on: bool, *, warn_only: bool) -> None:
    """Set the deterministic flag; the public function imports the compiler, which takes seconds."""
    torch._C._set_deterministic_algorithms(on, warn_only=warn_only)


def without_subclasses() -> Any:
    """Return a context in which no `__torch_function__` is called, for which no name is public."""
    return torch._C.DisableTorchFunctionSubclass()


def fake_tensor_mode() -> Any:
    """Return a mode that makes fake tensors; it is imported here since that takes seconds."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    return FakeTensorMode()


def occupy(cuda: Any, cycles: int) -> None:
    """Keep a device busy for some cycles; cuda : torch's module, or a stand-in."""
    cuda._sleep(cycles)


@dataclass(frozen=True)
class Allocation:
    """A change of the memory that is held on a device; freed bytes are negative."""

    start: int
    device: str
    bytes: int


def allocations(profile: torch.profiler.profile) -> Iterator[Allocation]:
    """List the allocations that a profile has seen, which only its raw results hold one by one."""
    recorded: Any = profile.profiler
    for event in recorded.kineto_results.events():
        if event.name() == "[memory]":
            device = event.device_type().name.lower()
            yield Allocation(event.start_ns(), device, event.nbytes())
