"""Global state guard: torch's global settings are restored after a call, and changes recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch

from lossspec.execution.timeout import uninterrupted
from lossspec.execution.torch_private import set_deterministic, set_grad_enabled


@dataclass(frozen=True)
class Setting:
    """A global setting of torch.

    Attributes:
        name: Its name in a message.
        code: The Python expression that reads it.
        read: The function that reads it.
        write: The function that sets it.
    """

    name: str
    code: str
    read: Callable[[], Any]
    write: Callable[[Any], object]


@dataclass(frozen=True)
class Changed:
    """A setting that a call has changed.

    Attributes:
        switch: The setting.
        before: Its value before the call.
        after: Its value after the call.
    """

    switch: Setting
    before: Any
    after: Any


def _switch(name: str, write: Callable[[Any], object], reader: str, *about: str) -> Setting:
    code = f"torch.{reader}({', '.join(map(repr, about))})"
    return Setting(name, code, partial(getattr(torch, reader), *about), write)


def _anomaly(on: bool) -> None:
    torch.set_anomaly_enabled(on, torch.is_anomaly_check_nan_enabled())


def _deterministic(on: bool) -> None:
    warn = torch.is_deterministic_algorithms_warn_only_enabled()
    set_deterministic(on, warn_only=warn and on)


@cache
def settings() -> tuple[Setting, ...]:
    """Return every setting; made on first use, so that importing this module loads no torch."""
    return (
        _switch("grad mode", set_grad_enabled, "is_grad_enabled"),
        _switch("the default dtype", torch.set_default_dtype, "get_default_dtype"),
        _switch("the number of threads", torch.set_num_threads, "get_num_threads"),
        _switch("the deterministic flag", _deterministic, "are_deterministic_algorithms_enabled"),
        _switch("the anomaly flag", _anomaly, "is_anomaly_enabled"),
        *(
            _switch(
                f"autocast on {kind}",
                partial(torch.set_autocast_enabled, kind),
                "is_autocast_enabled",
                kind,
            )
            for kind in ("cpu", "cuda")
        ),
    )


@contextmanager
def preserved(changed: list[Changed] | None = None) -> Iterator[None]:
    """Restore the settings that are changed in this context.

    Args:
        changed: A list that receives the changes; None to restore them only.
    """
    before = [switch.read() for switch in settings()]
    try:
        yield
    finally:
        with uninterrupted():
            after = [switch.read() for switch in settings()]
            if after != before:
                for switch, was, now in zip(settings(), before, after, strict=True):
                    if was != now:
                        switch.write(was)
                        if changed is not None:
                            changed.append(Changed(switch, was, now))


@contextmanager
def told_of_nondeterminism() -> Iterator[None]:
    """Let torch warn of operations without a deterministic implementation, in this context."""
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    before = torch.are_deterministic_algorithms_enabled()
    set_deterministic(True, warn_only=True)
    try:
        yield
    finally:
        set_deterministic(before, warn_only=warned)


@contextmanager
def other_settings() -> Iterator[None]:
    """Change grad mode, the default dtype and the deterministic flag to unusual values."""
    usual = torch.get_default_dtype() is torch.float32
    with preserved():
        set_grad_enabled(not torch.is_grad_enabled())
        torch.set_default_dtype(torch.float64 if usual else torch.float32)
        _deterministic(not torch.are_deterministic_algorithms_enabled())
        yield
