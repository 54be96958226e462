"""Devices: which exist, and what they can hold."""

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
    """The device types of this machine: the processor and every accelerator."""
    found = ["cpu"]
    accelerator = torch.accelerator.current_accelerator()
    if accelerator is not None and torch.accelerator.is_available():
        found.append(accelerator.type)
    return found


def accelerates(device: str) -> bool:
    """Whether a device is another than the host."""
    return torch.device(device).type != "cpu"


@cache
def dtype_problem(device: str, dtype: str) -> str | None:
    """Why a device cannot hold a dtype; None when it can."""
    try:
        torch.zeros(1, dtype=torch_dtype(dtype)).to(device)
    except (RuntimeError, TypeError) as error:
        return foreign_error(error)
    return None


def given_devices(given: Any) -> tuple[str, ...]:
    """The devices that Python code names; DeviceError when there is no such one."""
    try:
        return chosen((str(given),))  # a torch.device stands for its name
    except DeviceError as error:
        raise DeviceError(str(error).removeprefix("--")) from None


def chosen(names: Sequence[str]) -> tuple[str, ...]:
    """The devices that `--device` names; `all` is every one present. DeviceError otherwise."""
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
                f"--device {name}: no such device here{suggestion(name, [*present(), 'all'])}"
            )
        if ":" in name and device.type != "cpu":
            count = torch.accelerator.device_count()
            if device.index >= count:
                raise DeviceError(f"--device {name}: there are {count} of type {device.type}")
        devices.append(name)
    return tuple(dict.fromkeys(devices))
