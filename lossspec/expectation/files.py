"""Tensors in files: one in a file, or several by name."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lossspec.errors import ArgumentError
from lossspec.nearest import suggestion

#: The most bytes that the tensors of a file may take.
LARGEST = 2**34
SUFFIXES = (".pt", ".pth", ".npy", ".npz")


def read(path: Path) -> torch.Tensor | dict[str, torch.Tensor]:
    """Return the tensor of a file, or its tensors by name; no code in the file is run.

    Args:
        path: A file written by torch.save (.pt, .pth), numpy.save (.npy) or numpy.savez (.npz).

    Raises:
        ArgumentError: The file does not hold tensors, or too large ones.
        OSError: The file cannot be opened.
    """
    if path.suffix not in SUFFIXES:
        raise ArgumentError(f"{path}: the name must end in one of {', '.join(SUFFIXES)}")
    with path.open("rb"):  # the OSError of a missing file names the file
        _check_size(path)
    try:
        found = _loaded(path)
    except MemoryError:
        raise ArgumentError(f"{path}: the tensors do not fit into memory") from None
    except Exception as error:
        # Do not print torch's message, which advises to run the code in the file.
        raise ArgumentError(
            f"{path}: the file is damaged or holds more than tensors; save only tensors in it"
        ) from error
    if not isinstance(found, Mapping):
        return _tensor(path, "", found)
    if not found:
        raise ArgumentError(f"{path}: the file holds no tensor")
    return {str(name): _tensor(path, f":{name}", value) for name, value in found.items()}


def pick(path: Path, key: str) -> torch.Tensor:
    """Return the only tensor of a file, or the one with a name.

    Args:
        path: The file, as for `read`.
        key: The name of the tensor in the file; empty for the only one.

    Raises:
        ArgumentError: The file holds no such tensor, or several and no name was given.
        OSError: The file cannot be opened.
    """
    found = read(path)
    if isinstance(found, torch.Tensor):
        if key:
            raise ArgumentError(
                f"{path}: the file holds one tensor without a name, so remove :{key}"
            )
        return found
    if not key and len(found) == 1:
        return next(iter(found.values()))
    if key not in found:
        asked = f"the file has no tensor {key!r}" if key else "the file holds several tensors"
        raise ArgumentError(f"{path}: {asked}{suggestion(key, list(found))}; write FILE:NAME")
    return found[key]


def _check_size(path: Path) -> None:
    size = path.stat().st_size
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            size = max(size, sum(member.file_size for member in archive.infolist()))
    if size > LARGEST:
        raise ArgumentError(
            f"{path}: the file holds {size / 2**30:,.0f} GiB; at most {LARGEST / 2**30:.0f} GiB "
            "are allowed"
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
            raise ArgumentError(
                f"{path}{key}: numpy cannot store bfloat16; save the tensor with torch.save"
            )
        try:
            value = torch.from_numpy(np.array(value))
        except TypeError:
            raise ArgumentError(
                f"{path}{key}: torch does not have the dtype {value.dtype}; convert the array"
            ) from None
    if not isinstance(value, torch.Tensor):
        raise ArgumentError(f"{path}{key}: it holds a {type(value).__name__}, not a tensor")
    if value.numel() * value.element_size() > LARGEST:
        raise ArgumentError(
            f"{path}{key}: a tensor of shape {list(value.shape)} is too large; at most "
            f"{LARGEST / 2**30:.0f} GiB are allowed"
        )
    return value
