"""A stand-in for an accelerator, built from source: `torch.device("standin")` after `load()`."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import shutil
import subprocess
import sys
import time
import types
from functools import cache
from pathlib import Path

import torch
from torch.utils import cpp_extension

NAME = "standin"
SOURCE = Path(__file__).with_name("standin.cpp")


def compiler() -> str | None:
    """Return the C++ compiler of this machine, or None."""
    return shutil.which(os.environ.get("CXX", "c++")) or shutil.which("g++")


def build(directory: Path) -> Path:
    """Compile the library into a directory and return its path."""
    made = directory / "standin.so"
    found = compiler()
    assert found is not None
    libraries = cpp_extension.library_paths()
    subprocess.run(
        [
            found,
            "-shared",
            "-fPIC",
            "-O0",
            "-w",
            "-std=c++20",
            f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}",
            *(f"-isystem{path}" for path in cpp_extension.include_paths()),
            *(f"-L{path}" for path in libraries),
            *(f"-Wl,-rpath,{path}" for path in libraries),
            str(SOURCE),
            "-o",
            str(made),
            "-ltorch",
            "-ltorch_cpu",
            "-lc10",
        ],
        check=True,
    )
    return made


@cache
def load(library: Path) -> ctypes.CDLL:
    """Register the device with torch, which cannot be undone in this process."""
    # The autograd thread of a device releases Python objects after backward has returned, and would
    # abort in an interpreter that ends at that moment.
    atexit.register(time.sleep, 0.1)
    loaded = ctypes.CDLL(str(library))
    generator = torch.Generator()
    module = types.ModuleType(f"torch.{NAME}")
    vars(module).update(
        is_available=lambda: True,
        device_count=lambda: 1,
        current_device=lambda: 0,
        is_initialized=lambda: True,
        _is_in_bad_fork=lambda: False,
        manual_seed_all=generator.manual_seed,
        generator=generator,
        get_rng_state=generator.get_state,
        device=contextlib.nullcontext,
        get_amp_supported_dtype=lambda: [torch.float16, torch.bfloat16],
    )
    torch.utils.rename_privateuse1_backend(NAME)
    torch._register_device_module(NAME, module)
    torch.utils.generate_methods_for_privateuse1_backend()
    sys.modules[module.__name__] = module
    return loaded
