"""Which devices a run is on."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch

from lossspec.tensors import torch_dtype


class DeviceError(ValueError):
    """A device that is not there; the message says which ones are."""


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
def lacks(device: str, dtype: str) -> str | None:
    """Why a device cannot hold a dtype; None when it can."""
    try:
        torch.zeros(1, dtype=torch_dtype(dtype)).to(device)
    except (RuntimeError, TypeError) as error:
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"
    return None


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
            raise DeviceError(
                f"--device {name}: not a torch device; present here: {', '.join(present())}, all"
            ) from None
        if device.type not in present():
            raise DeviceError(
                f"--device {name}: no such device; present here: {', '.join(present())}"
            )
        if ":" in name and device.type != "cpu":
            count = torch.accelerator.device_count()
            if device.index >= count:
                raise DeviceError(f"--device {name}: there are {count} of type {device.type}")
        devices.append(name)
    return tuple(dict.fromkeys(devices))
