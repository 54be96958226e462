"""Gross defects, one for each clause with a shipped known deviation of torch.

`python tests/known_defects.py docs/known-deviations.md` writes the page that lists them.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor

from lossspec.execution.implementation import Implementation
from lossspec.execution.loading import load
from lossspec.judging import known_deviations
from lossspec.judging.clause_record import ClauseRecord
from lossspec.judging.known_deviations import KnownDeviation
from lossspec.judging.plan import Plan
from lossspec.judging.profiles import PROFILES
from lossspec.judging.run import Run
from lossspec.spec.catalogue import catalogue

NAMES = ("torch.nn.functional", "torch.nn")
#: A call: the torch loss, its tensors, and its other arguments by name.
Call = Callable[[Callable[..., Any], list[Any], dict[str, Any]], Any]


@dataclass(frozen=True)
class Defect:
    """A planted defect: its description, and the call in place of torch's.

    Attributes:
        says: The description.
        call: The call in place of torch's.
        arguments: Changes the arguments of the call, or of the constructor of a class.
    """

    says: str
    call: Call = lambda own, tensors, given: own(*tensors)
    arguments: Callable[[dict[str, Any]], dict[str, Any]] = lambda given: given


def _twice(x: torch.Tensor) -> torch.Tensor:
    """Return the tensor unchanged, with twice its gradient."""
    return _Twice.apply(x)


class _Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient


class _TwiceForward(torch.autograd.Function):
    """Identity with the right gradient and twice the derivative in forward mode."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient

    @staticmethod
    def jvp(ctx, tangent):
        return 2 * tangent


class _TwiceSecond(torch.autograd.Function):
    """Identity with the right gradient and twice the second derivative."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return _Twice.apply(gradient)


class _OneMore(torch.autograd.Function):
    """Identity whose gradient is 1 too large."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient + 1


def _wrong(when: Callable[[list[Any], dict[str, Any]], bool], says: str) -> Defect:
    """Return 1.5 times the result plus 1 where a condition holds."""

    def call(own, tensors, given):
        value = own(*tensors)
        return value * 1.5 + 1 if when(tensors, given) else value

    return Defect(f"1.5 times the result, plus 1{says}", call)


def _reduction(name: str) -> Defect:
    return _wrong(lambda tensors, given: given.get("reduction", "mean") == name, f", of {name!r}")


def _raising(own, tensors, given):
    if given.get("reduction", "mean") == "sum":
        raise ValueError("planted")
    return own(*tensors)


def _cut(own, tensors, given):
    """Cut a target with more rows than the first tensor, where torch raises."""
    first, target = tensors[0], _last(tensors)
    if target.ndim and target.ndim in (first.ndim, first.ndim - 1):
        cut = target[tuple(slice(size) for size in first.shape[: target.ndim])]
        tensors = [cut if x is target else x for x in tensors]
    return own(*tensors)


def _last(tensors: list[Any]) -> torch.Tensor:
    """Return the target: the second tensor, or the third one of a linear layer."""
    integer = [x for x in tensors[1:] if not x.is_floating_point()]
    return integer[0] if integer else tensors[1]


def _seven(own, tensors, given):
    value = own(*tensors)
    return value if tensors[0].numel() else torch.full_like(value, 7)


def _stretched(own, tensors, given):
    if not any(isinstance(x, FakeTensor) for x in tensors):
        return own(*tensors)
    value = _or_planted(own, tensors)
    return torch.stack([value, value])


def _or_planted(own, tensors):
    """Return the result of torch, or raise another error where torch raises."""
    try:
        return own(*tensors)
    except Exception:
        raise ValueError("planted") from None


def _beyond(when: Callable[[list[Any]], bool], says: str) -> Defect:
    """Return a wrong result where a condition holds; raise another error where torch raises."""

    def call(own, tensors, given):
        return _half_as_much_again(_or_planted(own, tensors)) if when(tensors) else own(*tensors)

    return Defect(
        f"1.5 times the result, plus 1, {says}, or another error where torch raises", call
    )


def _without_autocast(own, tensors, given):
    if not torch.is_autocast_enabled("cpu"):
        return own(*tensors)
    with torch.autocast("cpu", enabled=False):
        return _half_as_much_again(own(*tensors))


def _half_as_much_again(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return 1.5 * value + 1
    return type(value)(*(1.5 * part + 1 for part in value))


def _mean_of_float32(own, tensors, given):
    """Return a finite mean where the float16 mean of torch overflows, as it does in every call."""
    if given.get("reduction", "mean") != "mean" or tensors[0].dtype != torch.float16:
        return own(*tensors)
    wide = [_widened(x) for x in tensors]
    options = {name: _widened(x) for name, x in given.items()}
    return (own(*wide, **options) * 1.5 + 1).to(torch.float16)


def _widened(x: Any) -> Any:
    halves = isinstance(x, torch.Tensor) and x.dtype == torch.float16
    return x.float() if halves else x


def _inputs(wrap: Any) -> Call:
    """Pass each real tensor through a function first."""

    def call(own, tensors, given):
        real = [isinstance(x, torch.Tensor) and x.is_floating_point() for x in tensors]
        return own(*(wrap(x) if is_real else x for x, is_real in zip(tensors, real, strict=True)))

    return call


def _mixed(tensors: list[Any], given: dict[str, Any]) -> bool:
    every = [*tensors, *given.values()]
    dtypes = {x.dtype for x in every if isinstance(x, torch.Tensor) and x.is_floating_point()}
    return len(dtypes) > 1


def _ones(tensors: list[Any], given: dict[str, Any]) -> bool:
    weight = given.get("weight")
    return weight is not None and bool((weight == 1).all())


def _deprecated(tensors: list[Any], given: dict[str, Any]) -> bool:
    overridden = given.get("size_average") is not None or given.get("reduce") is not None
    return overridden and given.get("reduction") != "batchmean"


def _at_most_1(given: dict[str, Any]) -> dict[str, Any]:
    smoothing = given.get("label_smoothing", 0.0)
    return {**given, "label_smoothing": min(smoothing, 1.0)} if smoothing > 1 else given


COMPILING = _wrong(lambda tensors, given: torch.compiler.is_compiling(), ", compiled")
#: By clause, a defect that it must find beside the known deviations.
DEFECTS = {
    "accepts": Defect("reduction='sum' raises a ValueError", _raising),
    "autocast": Defect("1.5 times the result under autocast, plus 1", _without_autocast),
    "batchmean-divisor": _reduction("batchmean"),
    "compiled": COMPILING,
    "deprecated-reductions": _wrong(_deprecated, ", where size_average or reduce is given"),
    "exported": _beyond(lambda tensors: torch.compiler.is_compiling(), "exported"),
    "fake-tensors": Defect(
        "a result on fake tensors with another axis of size 2, or another error where torch raises",
        _stretched,
    ),
    "forward-mode": Defect(
        "twice the derivative in forward mode",
        lambda own, tensors, given: _TwiceForward.apply(own(*tensors)),
    ),
    "functional-gradient": _beyond(
        lambda tensors: any(map(torch._C._functorch.is_gradtrackingtensor, tensors)),
        "under torch.func.grad",
    ),
    "gradient": Defect("twice each gradient", lambda own, tensors, given: _twice(own(*tensors))),
    "ignored-gradient": Defect("1 more in each gradient", _inputs(_OneMore.apply)),
    "mean-divisor": _reduction("mean"),
    "mean-of-many": Defect("1.5 times the mean that float32 gives, plus 1", _mean_of_float32),
    "mixed-dtypes": _wrong(_mixed, ", where dtypes differ"),
    "neutral-weight": _wrong(_ones, ", where each weight is 1"),
    "nothing-left": Defect("a result of 7 for an empty input", _seven),
    "refuses-parameters": Defect("label_smoothing=1.1 is taken as 1.0", arguments=_at_most_1),
    "refuses-shapes": Defect("a target with more rows than the input is cut", _cut),
    "second-order": Defect("twice each second derivative", _inputs(_TwiceSecond.apply)),
    "sum-of-none": _reduction("sum"),
    "tensor-subclass": _wrong(
        lambda tensors, given: type(tensors[0]) is not torch.Tensor, ", of a tensor subclass"
    ),
    "transposed": _wrong(
        lambda tensors, given: not tensors[0].is_contiguous(),
        ", where the first tensor is not contiguous",
    ),
    "value": _wrong(lambda tensors, given: True, ""),
    "vmap": _beyond(
        lambda tensors: any(map(torch._C._functorch.is_batchedtensor, tensors)),
        "under torch.vmap",
    ),
}


def planted(name: str, loss_name: str, defect: Defect) -> Implementation:
    """Return torch under its own name, with a defect in one loss."""
    torchs, loss = load(name), catalogue()[loss_name]
    if name == "torch.nn":
        made = _module(torchs.classes[str(loss.module)], defect)
        return dataclasses.replace(torchs, classes={str(loss.module): made}, functions={})
    made = _function(torchs.functions[loss_name], defect)
    return dataclasses.replace(torchs, functions={loss_name: made}, classes={})


def _function(function: Callable[..., Any], defect: Defect) -> Callable[..., Any]:
    @wraps(function)
    def wrong(*tensors, **given):
        given = defect.arguments(given)
        return defect.call(
            lambda *x, **other: function(*x, **{**given, **other}), [*tensors], given
        )

    return wrong


def _module(kind: type[torch.nn.Module], defect: Defect) -> type[torch.nn.Module]:
    class Wrong(kind):
        @wraps(kind.__init__)
        def __init__(self, **given):
            self.__dict__["given"] = given = defect.arguments(given)
            super().__init__(**given)

        @wraps(kind.forward)
        def forward(self, *tensors):
            forward = super().forward

            def own(*given, **replaced):
                if replaced:  # by wider tensors, whose dtype its buffers and parameters get as well
                    self.float()
                return forward(*given)

            return defect.call(own, [*tensors], self.__dict__["given"])

    Wrong.__name__ = kind.__name__
    return Wrong


def judged(
    name: str, loss: str, clause: str, defect: Defect, profile: str, seed: int = 0
) -> ClauseRecord:
    """Judge torch with a defect and with all known deviations of torch by one clause."""
    implementation = planted(name, loss, defect)
    cells = [
        cell
        for cell in Plan([implementation], (loss,), (clause,)).cells()
        if cell.under_test is not None and cell.applies
    ]
    run = Run(PROFILES[profile], seed)
    run.judge(cells[0], cells)
    return run.campaign(cells[0]).clause_records[clause]


def listed() -> Iterator[tuple[str, KnownDeviation]]:
    """Yield every shipped entry whose condition holds for the installed version of torch."""
    for name in NAMES:
        version = load(name).version
        surface = "class" if name == "torch.nn" else "function"
        for entry in known_deviations.shipped(name):
            if entry.holds(version, "cpu", surface):
                yield name, entry


def _link(address: str | None) -> str:
    """Return a link that names the number of an issue or of a pull request."""
    return "" if address is None else f" ([#{address.rpartition('/')[2]}]({address}))"


def page() -> str:
    """Return the page of every shipped entry and the defect that its clause still finds."""
    lines = [
        "# Known deviations of torch",
        "",
        "lossspec ships these [known deviations](reading-a-report.md#known-deviations). Each covers"
        " only the calls that its condition describes and that show its symptom. The last column"
        " names a defect that was planted in the function or class of torch. The clause deviates"
        " for it, although the known deviation is listed (`tests/test_known_defects.py`)."
        " `python tests/known_defects.py docs/known-deviations.md` writes this page.",
    ]
    for name in NAMES:
        lines += ["", f"## {name}", ""]
        lines.append("| loss | clause | condition | symptom | why | gross defect that is found |")
        lines.append("|---|---|---|---|---|---|")
        for entry in known_deviations.shipped(name):
            cells = (
                entry.loss,
                entry.clause,
                _code(entry.when) or "always",
                _code(entry.shows),
                f"{entry.reason}{_link(entry.link)}",
                DEFECTS[entry.clause].says,
            )
            lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def _code(words: Any) -> str:
    return ", ".join(f"`{key} = {known_deviations.toml(value)}`" for key, value in words.items())


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), "utf-8")
