"""The settings of torch and of the process that a loss might leave changed, listed from torch.

The global state guard in `global_state` restores a few settings after every call. Reading the many
settings here takes longer, so clause `process-state` reads them around a few calls.
"""

from __future__ import annotations

import gc
import logging
import sys
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache, partial
from typing import Any

import numpy as np
import torch

from lossspec.execution.global_state import Changed, Setting, settings
from lossspec.execution.timeout import uninterrupted
from lossspec.execution.torch_private import (
    default_device,
    function_modes,
    is_multithreading_enabled,
    print_options,
    set_default_device,
    set_function_modes,
)

#: The setters of torch without a setting here, each with the reason.
LEFT_OUT: Mapping[str, str] = {
    "set_anomaly_enabled": "the guard has it",
    "set_autocast_enabled": "the guard has it",
    "set_default_dtype": "the guard has it",
    "set_grad_enabled": "the guard has it",
    "set_num_threads": "the guard has it",
    "set_deterministic_debug_mode": "the guard has the deterministic flag",
    "set_default_tensor_type": "it sets the default dtype and the default device",
    "set_num_interop_threads": "it can be set only once in a process",
    "set_rng_state": "clause `random-state` has it",
    "set_vital": "it has no reader",
    "set_autocast_cpu_dtype": "a former name of set_autocast_dtype",
    "set_autocast_cpu_enabled": "a former name of set_autocast_enabled",
    "set_autocast_gpu_dtype": "a former name of set_autocast_dtype",
    "set_autocast_ipu_dtype": "a former name of set_autocast_dtype",
    "set_autocast_ipu_enabled": "a former name of set_autocast_enabled",
    "set_autocast_xla_dtype": "a former name of set_autocast_dtype",
    "set_autocast_xla_enabled": "a former name of set_autocast_enabled",
}
#: The setters of torch whose readers have a name of another form, or whose value is private.
_OTHER_READERS: Mapping[str, tuple[Callable[[], Any], Callable[[Any], object]]] = {
    "set_flush_denormal": (lambda: _flushes(), lambda on: torch.set_flush_denormal(on)),
    "set_printoptions": (
        print_options,
        lambda value: torch.set_printoptions(**value),  # type: ignore[no-untyped-call]
    ),
    "set_default_device": (default_device, set_default_device),
}


def _flushes() -> bool:
    """Return whether arithmetic replaces subnormal numbers by 0, for which torch has no reader."""
    return not float(torch.tensor(2.0**-140) * 1.0) > 0


def setters() -> list[str]:
    """List the setters of torch by their names, without those in `LEFT_OUT`."""
    return [name for name in dir(torch) if name.startswith("set_") and name not in LEFT_OUT]


def _of_setters() -> Iterator[Setting]:
    """Yield a setting for each setter of torch that has a reader."""
    for name in setters():
        stem = name.removeprefix("set_")
        if name in _OTHER_READERS:
            yield Setting(f"torch.{stem}", f"torch.{stem}", *_OTHER_READERS[name])
            continue
        for reader in (f"get_{stem}", f"is_{stem}", f"is_{stem}_enabled"):
            if hasattr(torch, reader):
                about: tuple[str, ...] = ("cpu",) if stem == "autocast_dtype" else ()
                yield Setting(
                    f"torch.{stem}",
                    f"torch.{reader}({', '.join(map(repr, about))})",
                    partial(getattr(torch, reader), *about),
                    partial(getattr(torch, name), *about),
                )
                break


def _of_modules() -> Iterator[Setting]:
    """Yield a setting for each attribute of a module of torch that is a property with a setter."""
    for path, module in sorted(sys.modules.items()):
        kinds = type(module).__mro__ if path.startswith("torch.") else ()
        for kind in kinds:
            if kind in (types.ModuleType, object):
                break
            for name, each in vars(kind).items():
                if _writable(each):
                    yield Setting(
                        f"{path}.{name}",
                        f"{path}.{name}",
                        partial(getattr, module, name),
                        partial(setattr, module, name),
                    )


def _writable(attribute: Any) -> bool:
    """Return whether a class attribute is a descriptor that a module may set."""
    if isinstance(attribute, property):
        return attribute.fset is not None
    return hasattr(type(attribute), "__set__") and not isinstance(
        attribute, types.GetSetDescriptorType
    )


def _of_functions() -> Iterator[Setting]:
    """Yield the settings that functions in submodules of torch read and set."""
    cuda, mha = torch.backends.cuda, torch.backends.mha
    for name in ("flash", "math", "mem_efficient", "cudnn"):
        reader = getattr(cuda, f"{name}_sdp_enabled", None)
        writer = getattr(cuda, f"enable_{name}_sdp", None)
        if reader is not None and writer is not None:
            code = f"torch.backends.cuda.{name}_sdp_enabled"
            yield Setting(code, f"{code}()", reader, writer)
    for name in ("allow_tf32", "allow_fp16_reduced_precision_reduction", "allow_fp16_accumulation"):
        if hasattr(cuda.matmul, name):
            code = f"torch.backends.cuda.matmul.{name}"
            yield Setting(
                code, code, partial(getattr, cuda.matmul, name), partial(setattr, cuda.matmul, name)
            )
    yield Setting(
        "torch.backends.mha.fastpath",
        "torch.backends.mha.get_fastpath_enabled()",
        mha.get_fastpath_enabled,
        mha.set_fastpath_enabled,
    )
    invariants = torch.sparse.check_sparse_tensor_invariants
    yield Setting(
        "torch.sparse.check_sparse_tensor_invariants",
        "torch.sparse.check_sparse_tensor_invariants.is_enabled()",
        invariants.is_enabled,
        lambda on: getattr(invariants, "enable" if on else "disable")(),
    )
    yield Setting(
        "the modes of torch functions",
        "torch.overrides.TorchFunctionMode",
        function_modes,
        set_function_modes,
    )
    yield Setting(
        "torch.autograd.set_multithreading_enabled",
        "torch.autograd.set_multithreading_enabled",
        is_multithreading_enabled,
        lambda on: torch.autograd.set_multithreading_enabled(on),
    )


def _set_filters(filters: list[Any]) -> None:
    warnings.filters[:] = filters  # type: ignore[index]


def _of_process() -> Iterator[Setting]:
    """Yield the settings of NumPy, of warnings and logs, and of the interpreter."""
    yield Setting(
        "the list of warning filters",
        "warnings.filters",
        lambda: list(warnings.filters),
        _set_filters,
    )
    yield Setting(
        "NumPy's handling of errors", "numpy.geterr()", np.geterr, lambda value: np.seterr(**value)
    )
    yield Setting(
        "NumPy's print options",
        "numpy.get_printoptions()",
        np.get_printoptions,
        lambda value: np.set_printoptions(**value),
    )
    yield Setting(
        "the level of disabled logs",
        "logging.root.manager.disable",
        lambda: logging.root.manager.disable,
        logging.disable,
    )
    yield Setting(
        "the recursion limit",
        "sys.getrecursionlimit()",
        sys.getrecursionlimit,
        sys.setrecursionlimit,
    )
    yield Setting(
        "the garbage collector",
        "gc.isenabled()",
        gc.isenabled,
        lambda on: gc.enable() if on else gc.disable(),
    )


@cache
def process_settings() -> tuple[Setting, ...]:
    """Return every setting that the guard does not restore after each call."""
    found = (*_of_setters(), *_of_modules(), *_of_functions(), *_of_process())
    guarded = {switch.name for switch in settings()}
    return tuple(switch for switch in found if switch.name not in guarded)


def _read(switch: Setting) -> Any:
    """Return the value of a setting, or the type of the error that reading it raises."""
    try:
        return switch.read()
    except Exception as error:  # such as two settings of precision that contradict each other
        return type(error).__name__


def _another(switch: Setting, value: Any) -> Any:
    """Return another value of a setting; the same value if no other is known to be harmless."""
    if switch.name == "torch.default_device":
        # Tensors are on the same device; only the setting differs from one that a call writes.
        return torch.device("cpu" if value == torch.device("cpu:0") else "cpu:0")
    if switch.name.endswith("allow_tf32"):  # it follows from the precision of matrix products
        return value
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, torch.dtype):
        return torch.float16 if value is torch.bfloat16 else torch.bfloat16
    if switch.name == "torch.float32_matmul_precision":
        return "high" if value == "highest" else "highest"
    if isinstance(value, dict) and "precision" in value:
        return {**value, "precision": value["precision"] + 1}
    if isinstance(value, dict):  # of NumPy's errors; to raise would affect a right loss
        return {kind: "warn" if how == "ignore" else "ignore" for kind, how in value.items()}
    if isinstance(value, list):  # in front, so that a filter that exists already moves
        return [("ignore", None, Unused, None, 0), *value]
    return value


class Unused(Warning):
    """A warning that nobody raises, for a filter of its own in the list of filters."""


@contextmanager
def process_preserved(changed: list[Changed] | None = None) -> Iterator[None]:
    """Restore the settings of torch and of the process that are changed in this context.

    Args:
        changed: A list that receives the changes; None to restore them only.
    """
    before = [_read(switch) for switch in process_settings()]
    try:
        yield
    finally:
        with uninterrupted():
            for switch, was in zip(process_settings(), before, strict=True):
                now = _read(switch)
                if was != now:
                    with suppress(Exception):
                        switch.write(was)
                    if changed is not None:
                        changed.append(Changed(switch, was, now))


@contextmanager
def other_process_settings() -> Iterator[None]:
    """Change every setting that has another harmless value to that value."""
    with process_preserved():
        with uninterrupted():
            for switch in process_settings():
                value = _read(switch)
                other = _another(switch, value)
                if other != value:
                    with suppress(Exception):
                        switch.write(other)
        yield
