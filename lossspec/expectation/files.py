"""Tensors in files: one for each file, or several by name."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lossspec.errors import ArgumentError
from lossspec.nearest import suggestion

#: Bytes that the tensors of a file may take.
LARGEST = 2**34
SUFFIXES = (".pt", ".pth", ".npy", ".npz")


def read(path: Path) -> torch.Tensor | dict[str, torch.Tensor]:
    """Return the tensor of a file, or its tensors by name.

    ArgumentError names the file where it holds something else or too much, OSError where it cannot
    be opened. No code in a file is run.
    """
    if path.suffix not in SUFFIXES:
        raise ArgumentError(f"{path}: its name ends in none of {', '.join(SUFFIXES)}")
    with path.open("rb"):  # the message of the operating system names the file
        _check_size(path)
    try:
        found = _loaded(path)
    except MemoryError:
        raise ArgumentError(f"{path}: its tensors do not fit into memory") from None
    except Exception as error:
        # Torch's message advises to run the code in the file.
        raise ArgumentError(f"{path}: it is damaged, or holds more than tensors") from error
    if not isinstance(found, Mapping):
        return _tensor(path, "", found)
    if not found:
        raise ArgumentError(f"{path}: it holds no tensor")
    return {str(name): _tensor(path, f":{name}", value) for name, value in found.items()}


def pick(path: Path, key: str) -> torch.Tensor:
    """Return the one tensor of a file, or the one of a name."""
    found = read(path)
    if isinstance(found, torch.Tensor):
        if key:
            raise ArgumentError(f"{path}: it holds one tensor without a name, got {key!r}")
        return found
    if not key and len(found) == 1:
        return next(iter(found.values()))
    if key not in found:
        asked = f"it has no tensor {key!r}" if key else "which of its tensors?"
        raise ArgumentError(f"{path}: {asked}{suggestion(key, list(found))}; write FILE:NAME")
    return found[key]


def _check_size(path: Path) -> None:
    size = path.stat().st_size
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            size = max(size, sum(member.file_size for member in archive.infolist()))
    if size > LARGEST:
        raise ArgumentError(
            f"{path}: it holds {size / 2**30:,.0f} GiB; {LARGEST / 2**30:.0f} GiB are read at most"
        )


def _loaded(path: Path) -> Any:
    if path.suffix in (".pt", ".pth"):
        return torch.load(path, map_location="cpu", weights_only=True)
    with path.open("rb") as file:
        array = np.load(file, allow_pickle=False)
        return array if isinstance(array, np.ndarray) else dict(array)


def _tensor(path: Path, key: str, value: Any) -> torch.Tensor:
    if isinstance(value, np.ndarray):
        if value.dtype.kind == "V":
            raise ArgumentError(f"{path}{key}: numpy stores no bfloat16; save it with torch.save")
        try:
            value = torch.from_numpy(np.array(value))
        except TypeError:
            raise ArgumentError(f"{path}{key}: torch has no dtype for {value.dtype}") from None
    if not isinstance(value, torch.Tensor):
        raise ArgumentError(f"{path}{key}: it is a {type(value).__name__}, not a tensor")
    if value.numel() * value.element_size() > LARGEST:
        raise ArgumentError(f"{path}{key}: a tensor of shape {list(value.shape)} is too large")
    return value
