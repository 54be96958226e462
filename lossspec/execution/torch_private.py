"""Private names of torch, each with the reason why no public name serves.

No other module uses private names, so a release of torch that moves one breaks only this module.
Checked with torch 2.13.0 and 2.14.1; tests/test_private_names.py calls each function.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch


def dispatch_mode() -> type[Any]:
    """Return the base class of modes that see every operation below autograd; none is public."""
    from torch.utils._python_dispatch import TorchDispatchMode

    return TorchDispatchMode


def tree_leaves(nested: Any) -> list[Any]:
    """List the leaves of nested arguments, for which no function is public."""
    from torch.utils._pytree import tree_leaves as leaves

    return list(leaves(nested))


def argument_names(operation: Any) -> set[str]:
    """Return the names of an operation's arguments, which only its private schema holds."""
    return {argument.name for argument in operation._schema.arguments}


def storage_identity(storage: torch.UntypedStorage) -> int:
    """Return the identity of a storage; public names show only the address of its memory."""
    return int(storage._cdata)


def set_grad_enabled(on: bool) -> None:
    """Set grad mode; the public name is a context manager, which would restore the former mode."""
    torch._C._set_grad_enabled(on)


def set_deterministic(on: bool, *, warn_only: bool) -> None:
    """Set the deterministic flag; the public function imports the compiler, which takes seconds.

    Args:
        on: Whether to use deterministic algorithms only.
        warn_only: Whether to warn instead of raising if an operation has none.
    """
    torch._C._set_deterministic_algorithms(on, warn_only=warn_only)


def without_subclasses() -> Any:
    """Return a context that calls no `__torch_function__`; no public name makes one."""
    return torch._C.DisableTorchFunctionSubclass()


def fake_tensor_mode() -> Any:
    """Return a mode that makes fake tensors; the late import avoids seconds at startup."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    return FakeTensorMode()


def mixes_devices(error: BaseException) -> bool:
    """Return whether an operation on fake tensors got tensors of several devices."""
    from torch._subclasses.fake_tensor import FakeTensorDeviceMismatchError

    return isinstance(error, FakeTensorDeviceMismatchError)


def occupy(cuda: Any, cycles: int) -> None:
    """Keep a device busy for some time.

    Args:
        cuda: The module `torch.cuda`, or a stand-in for it.
        cycles: The time, in clock cycles of the device.
    """
    cuda._sleep(cycles)


@dataclass(frozen=True)
class Allocation:
    """A change of the memory that is allocated on a device.

    Attributes:
        start: The time of the change, in nanoseconds.
        device: The device type.
        bytes: The allocated bytes; negative if they were freed.
    """

    start: int
    device: str
    bytes: int


def allocations(profile: torch.profiler.profile) -> Iterator[Allocation]:
    """Yield the allocations of a profile, which only its private raw results list one by one."""
    recorded: Any = profile.profiler
    for event in recorded.kineto_results.events():
        if event.name() == "[memory]":
            device = event.device_type().name.lower()
            yield Allocation(event.start_ns(), device, event.nbytes())


def default_device() -> torch.device | None:
    """Return the device that `torch.set_default_device` has set in this thread; None if it has not.

    The public reader does not tell a default device of "cpu" from none.
    """
    return next((mode.device for mode in _function_stack() if _sets_device(mode)), None)


def set_default_device(device: torch.device | None) -> None:
    """Set the default device, also after an interruption of the public function, which leaves it.

    Args:
        device: The device; None for no default device.
    """
    from torch.utils import _device

    torch.set_default_device(device)
    if device is None:
        _device.CURRENT_DEVICE = None
        set_function_modes(function_modes(), device=False)


def function_modes() -> tuple[Any, ...]:
    """Return the modes that see every call of a torch function, without that of the default device.

    Under a mode, such as one that an interrupted call leaves, torch treats tensors as subclasses.
    """
    return tuple(mode for mode in _function_stack() if not _sets_device(mode))


def set_function_modes(modes: tuple[Any, ...], *, device: bool = True) -> None:
    """Set the modes that see every call of a torch function, of which no public name removes one.

    Args:
        modes: The modes, the innermost last.
        device: Whether a mode of the default device stays, which is the outermost one.
    """
    from torch.overrides import _pop_mode, _push_mode

    stack = _function_stack()
    for _ in stack:
        _pop_mode()  # type: ignore[no-untyped-call]
    for mode in (*(mode for mode in stack if device and _sets_device(mode)), *modes):
        _push_mode(mode)  # type: ignore[no-untyped-call]


def _function_stack() -> list[Any]:
    from torch.overrides import _get_current_function_mode_stack

    return list(_get_current_function_mode_stack())  # type: ignore[no-untyped-call]


def _sets_device(mode: Any) -> bool:
    from torch.utils._device import DeviceContext

    return isinstance(mode, DeviceContext)


def is_multithreading_enabled() -> bool:
    """Return whether backward may use several threads; only the setter is public."""
    return bool(torch._C._is_multithreading_enabled())


def print_options() -> dict[str, Any]:
    """Return the options that `torch.set_printoptions` sets, for which there is no reader."""
    from torch._tensor_str import PRINT_OPTS

    return dict(vars(PRINT_OPTS))
