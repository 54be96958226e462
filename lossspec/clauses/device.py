"""Clauses on devices, which are judged on an accelerator only."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from lossspec.clauses import Judgement, clause
from lossspec.clauses.precondition import precondition, raises_nothing, works
from lossspec.clauses.trial import Deviation, NotJudged, Trial
from lossspec.excuse import Excuse
from lossspec.execution.tensors import first_numbers
from lossspec.execution.torch_private import dispatch_mode, tree_leaves
from lossspec.spec.loss import Loss
from lossspec.spec.roles import Length, Surface
from lossspec.thresholds import READ_ON_HOST


@precondition()
def _has_a_second_tensor(trial: Trial) -> bool:
    """The call has a second tensor that is not a scalar."""
    names = list(trial.form.tensors)
    second = trial.outcome.before.get(names[1]) if len(names) > 1 else None
    return second is not None and second.ndim > 0


@clause(only_on="accelerator", empty=True, requires=(works,))
def result_device(trial: Trial) -> Judgement:
    """The result and the gradients are on the device of the inputs."""
    inputs = trial.outcome.inputs
    first, device = next((name, tensor.device) for name, tensor in inputs.items())
    found = {"the result": trial.outcome.value, **_gradients(trial)}
    for what, tensor in found.items():
        if tensor.device != device:
            told = what == "the result"
            raise Deviation(
                f"{what} is on another device",
                tensor.device,
                device,
                check=f"value.device == inputs[{first!r}].device" if told else None,
            )
    return True


def _gradients(trial: Trial) -> dict[str, torch.Tensor]:
    found = trial.outcome.gradients.items()
    return {f"the gradient of {name}": slope for name, slope in found if slope is not None}


def _tensors(nested: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(nested) if isinstance(leaf, torch.Tensor)]


def _on_host(tensor: torch.Tensor) -> bool:
    return tensor.device.type == "cpu"


class _Arrivals:
    """A record of the numbers that are copied from an accelerator to the host.

    It sees calls of torch (`cpu`, `to`, `copy_`, `item`, `tolist`, `bool`) in forward and in
    backward, on any thread. It does not see copies inside a kernel, copies without torch (through
    `__dlpack__` or a raw pointer), or operations that wait for the device.

    Attributes:
        uncounted: The shapes of integer tensors that are not counted.
        count: The number of copied numbers.
        largest: The size of the largest copy, and its description.
    """

    def __init__(self, uncounted: set[tuple[int, ...]]) -> None:
        super().__init__()
        self.uncounted = uncounted
        self.count = 0
        self.largest: tuple[int, str] = (0, "")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        copied = "copy" in name and _on_host(_tensors((made, args))[0])
        if copied or name == "_local_scalar_dense":
            for source in _tensors((args, kwargs)):
                if not _on_host(source):
                    self._note(name, source)
        return made

    def _note(self, name: str, source: torch.Tensor) -> None:
        exact = not source.is_floating_point() and not source.is_complex()
        if exact and tuple(source.shape) in self.uncounted:
            return
        size = source.numel()
        self.count += size
        self.largest = max(self.largest, (size, f"{name} of {source.dtype} {list(source.shape)}"))


@cache
def _watching() -> type[Any]:
    """Return the class of modes that record copies, made on first use since its base is private."""
    return type("Watching", (_Arrivals, dispatch_mode()), {})


@clause(only_on="accelerator", enough=40, requires=(works, raises_nothing))
def no_host_copy(trial: Trial) -> Judgement:
    """A call and its backward copy at most 8 numbers to the host, sequence lengths not counted."""
    roles = trial.loss.roles(trial.form)
    tensors = trial.case.tensors
    # Torch copies lengths to the host too, where they control loops.
    lengths = {tensors[name].shape for name in tensors if isinstance(roles[name], Length)}
    with _watching()(lengths) as arrivals:
        outcome = trial.attempt()
    if outcome.error is not None:
        raise NotJudged(Excuse.CALL_FAILS, "it raises while copies to the host are recorded")
    if arrivals.count > READ_ON_HOST:
        raise Deviation(
            "numbers were copied to the host",
            f"{arrivals.count} numbers; {arrivals.largest[1]}",
            f"{READ_ON_HOST} numbers at most",
            check=None,
        )
    return max(array.size for array in tensors.values()) > READ_ON_HOST


def _in_one_place(loss: Loss, surface: Surface) -> bool:
    # For losses with lengths, some kernels of torch want the targets on the host.
    return not any(
        isinstance(role, Length) for form in loss.forms for role in form.tensors.values()
    )


@clause(
    _in_one_place,
    only_on="accelerator",
    enough=10,
    hazard=1,
    requires=(works, _has_a_second_tensor),
)
def refuses_mixed_devices(trial: Trial) -> Judgement:
    """If the second tensor is on the host and the others are not, the call raises, unless that
    tensor is a scalar."""
    names = list(trial.form.tensors)
    replaced = {names[1]: trial.outcome.before[names[1]].cpu()}
    outcome = trial.refusal(**replaced)
    if outcome.error is None:
        got = outcome.value
        raise Deviation(
            f"{names[1]} is on the host, yet nothing was raised",
            first_numbers(got, 4) if isinstance(got, torch.Tensor) else got,
            "an error",
            check=None,
            replaced=replaced,
            accepted=True,
        )
    return True
