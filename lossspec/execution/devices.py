"""The devices of this machine, and the dtypes that they can hold."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch

from lossspec.errors import DeviceError
from lossspec.execution.tensors import torch_dtype
from lossspec.nearest import suggestion
from lossspec.safe_text import foreign_error, one_line


def present() -> list[str]:
    """Return the device types of this machine: the CPU and the accelerator, if it has one."""
    found = ["cpu"]
    accelerator = torch.accelerator.current_accelerator()
    if accelerator is not None and torch.accelerator.is_available():
        found.append(accelerator.type)
    return found


def accelerates(device: str) -> bool:
    """Return whether a device is an accelerator rather than the CPU."""
    return torch.device(device).type != "cpu"


@cache
def dtype_problem(device: str, dtype: str) -> str | None:
    """Return why a device cannot hold a dtype, or None if it can."""
    try:
        torch.zeros(1, dtype=torch_dtype(dtype)).to(device)
    except (RuntimeError, TypeError) as error:
        return foreign_error(error)
    return None


def given_devices(given: Any) -> tuple[str, ...]:
    """Return the devices that a Python argument names, such as "all" or a torch.device.

    Raises:
        DeviceError: This machine has no such device.
    """
    try:
        return chosen((str(given),))  # str of a torch.device is its name
    except DeviceError as error:
        raise DeviceError(str(error).removeprefix("--")) from None


def chosen(names: Sequence[str]) -> tuple[str, ...]:
    """Return the devices that `--device` names, each once.

    Args:
        names: Names of devices; `all` stands for every device type of this machine.

    Raises:
        DeviceError: A name is not a device of torch, or this machine has no such device.
    """
    devices: list[str] = []
    for name in names:
        if name == "all":
            devices += present()
            continue
        try:
            device = torch.device(name)
        except RuntimeError:
            known = [*present(), "all"]
            raise DeviceError(
                f"--device {one_line(name)}: not a torch device{suggestion(name, known)}"
            ) from None
        if device.type not in present():
            raise DeviceError(
                f"--device {name}: this machine has no such device"
                f"{suggestion(name, [*present(), 'all'])}"
            )
        if ":" in name and device.type != "cpu":
            count = torch.accelerator.device_count()
            if device.index >= count:
                raise DeviceError(
                    f"--device {name}: the last device of this type is {device.type}:{count - 1}"
                )
        devices.append(name)
    return tuple(dict.fromkeys(devices))
