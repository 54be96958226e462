"""The blind set: losses that were written by somebody who had not seen the suite.

The files in `tests/defects/blind/` are kept as they were written. They are named like the losses.
Those in `second/` to `seventh/` are of later sets, which others wrote after the suite was mended by
the one before; their ids end with 2 to 7. A file `<loss>_more.py` has more of them. A function or
class named `wrong...` has one defect, which its docstring describes, and a function
`witness_<name>` that returns True if the defect shows. One named `right...` has none.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from lossspec.audit import Defect, RightImplementation, audit

FOLDER = Path(__file__).parent / "blind"
FOUND = Path(__file__).parent / "blind.json"
#: The folders of the later sets, each with the end of the ids of its losses.
LATER = {
    "second": "-2",
    "third": "-3",
    "fourth": "-4",
    "fifth": "-5",
    "sixth": "-6",
    "seventh": "-7",
}
PROFILES: tuple[Literal["quick", "standard"], ...] = ("quick", "standard")


@dataclass(frozen=True, eq=False)
class BlindDefect(Defect):
    """A wrong loss of the blind set.

    Attributes:
        witness: A function that returns True if the defect shows.
    """

    witness: Callable[[], bool] | None = None


#: Losses that were written as right and are wrong: the clauses that say so, and the reason.
EXAMINED: dict[str, tuple[tuple[str, ...], str]] = {
    "adaptive_log_softmax_with_loss/RightSorted-7": (
        ("shift-invariance",),
        "x - logsumexp(x) cancels under a common offset (pytorch/pytorch#11752)",
    ),
    "binary_cross_entropy/right_closed_form-4": (
        ("mixed-dtypes",),
        "with a weight in another dtype it calls torch's function, whose gradient at 0 and 1 is nan"
        " in float16",
    ),
    "binary_cross_entropy/right_autograd_function-7": (
        ("gradient",),
        "its 1e-12 rounds to 0 in float16, as torch's does, so the gradient at 0 and 1 is 0 / 0",
    ),
    "binary_cross_entropy/right_by_function-2": (
        ("gradient",),
        "its 1e-12 rounds to 0 in float16, as torch's does, so the gradient at 0 and 1 is 0 / 0",
    ),
    "binary_cross_entropy/right_linear_tails-7": (
        ("sum-of-many",),
        "torch.dot with an expanded weight adds 131,076 losses one after the other, and so loses"
        " three digits of float32",
    ),
    "cosine_embedding_loss/RightPolarisation-6": (
        ("value", "gradient"),
        "as torch, it adds an undocumented 1e-12 to the squared lengths, which float64 resolves",
    ),
    "cosine_embedding_loss/right_einsum_rsqrt-2": (
        ("value", "gradient"),
        "in float16 the squares of a short vector are 0, and the third power of a reciprocal"
        " length, which its backward needs, is inf or 0",
    ),
    "cosine_embedding_loss/right_stacked_products-4": (
        ("gradient",),
        "in float32 the third power of a reciprocal length of 1e16 is 0",
    ),
    "cross_entropy/right_masked_gather-2": (
        ("mean-of-many",),
        "the sum of its mean overflows in float16",
    ),
    "cross_entropy/right_one_hot-2": (
        ("shift-invariance", "mean-of-many"),
        "x - logsumexp(x) cancels under a common offset (pytorch/pytorch#11752), and the sum of its"
        " mean overflows in float16",
    ),
    "ctc_loss/right_alpha_recursion-2": (
        ("refuses-calls", "refuses-shapes"),
        "it checks neither that lengths fit nor that all tensors have the same batch size",
    ),
    "ctc_loss/right_batched_recursion-4": (
        ("user-settings", "vmap"),
        "under the default dtype float64 its result is float64; under vmap its gradient is nan"
        " beside a score of -inf",
    ),
    "ctc_loss/right_sample_by_sample-3": (
        ("gradient",),
        "its result has no graph for a batch in which every input length is 0",
    ),
    "ctc_loss/RightBatchedRecursion-6": (
        ("grad-mode",),
        "under torch.inference_mode it raises, as it takes gradients within the call",
    ),
    "gaussian_nll_loss/RightGaussianNLLLoss-7": (
        ("value", "sum-of-none", "mean-divisor"),
        "it adds squares before it halves them, so that the sum overflows earlier",
    ),
    "linear_cross_entropy/RightModule-7": (
        ("autocast",),
        "under autocast it raises, as it writes losses in float32 to a tensor in bfloat16",
    ),
    "linear_cross_entropy/right_chunked": (
        ("mean-of-many",),
        "the sum of its class weights, by which it divides, overflows in float16",
    ),
    "linear_cross_entropy/right_einsum-2": (
        ("shift-invariance", "refuses-shapes", "mean-of-many"),
        "x - logsumexp(x) cancels under a common offset (pytorch/pytorch#11752), a layer with two"
        " further axes takes a weight of their shape, and the sum of its mean overflows in float16",
    ),
    "linear_cross_entropy/right_einsum-5": (
        ("autocast",),
        "under autocast it raises, as its scores and the weight differ in dtype",
    ),
    "linear_cross_entropy/right_fused_chunks-2": (
        ("mean-of-many",),
        "the sum of its mean overflows in float16",
    ),
    "linear_cross_entropy/right_one_class_slice_at_a_time-5": (
        ("autocast",),
        "under autocast it raises, as its scores and the weight differ in dtype",
    ),
    "multi_margin_loss/right_function-7": (
        ("second-order",),
        "for p = 2 its second derivative is silently 0, as its backward reads slopes that forward"
        " computed",
    ),
    "nll_loss/right_masked_one_hot-2": (("accepts",), "it raises for a batch of size 0"),
    "nll_loss/right_own_backward-2": (("accepts",), "it raises for a batch of size 0"),
}


def losses() -> list[str]:
    """Return the names of the losses that the blind set has files for."""
    return sorted(path.stem for path in FOLDER.glob("*.py"))


def _files(loss: str) -> list[tuple[Path, str]]:
    """Return the files about a loss, each with the end of the names of its losses."""
    later = [
        (FOLDER / folder / f"{name}.py", end)
        for folder, end in LATER.items()
        for name in (loss, f"{loss}_more")
    ]
    return [(FOLDER / f"{loss}.py", ""), *(each for each in later if each[0].exists())]


def blind_defects(loss: str) -> list[BlindDefect]:
    """Return the wrong losses of the blind set for a loss."""
    return [
        BlindDefect(
            f"{name}{end}",
            loss,
            _given(thing),
            _sentence(thing),
            "class" if isinstance(thing, type) else "function",
            witness=vars(_module(file)).get(f"witness_{name}"),
        )
        for file, end in _files(loss)
        for name, thing in _named(_module(file), "wrong")
    ]


def blind_right(loss: str) -> list[RightImplementation]:
    """Return the right losses of the blind set for a loss; see also `EXAMINED`."""
    return [
        RightImplementation(
            f"{name}{end}",
            loss,
            _given(thing),
            _sentence(thing),
            "class" if isinstance(thing, type) else "function",
        )
        for file, end in _files(loss)
        for name, thing in _named(_module(file), "right")
    ]


@dataclass
class Found:
    """Which clause finds each wrong loss of the blind set first, and in which profile.

    Attributes:
        by: The profile and the clause, by the id of the wrong loss; None if none finds it.
    """

    by: dict[str, tuple[str, str] | None]

    @classmethod
    def read(cls) -> Found:
        """Return what was kept in the repository."""
        kept = json.loads(FOUND.read_text("utf-8")) if FOUND.exists() else {}
        return cls({name: None if by is None else tuple(by) for name, by in kept.items()})

    def write(self) -> None:
        """Keep the findings in the repository, with a line for each wrong loss."""
        lines = (f"{json.dumps(name)}: {json.dumps(by)}" for name, by in sorted(self.by.items()))
        FOUND.write_text("{\n" + ",\n".join(lines) + "\n}\n", "utf-8")

    def judge(self, defect: Defect) -> None:
        """Judge a wrong loss in profile quick, and in profile standard if quick misses it."""
        self.by[defect.id] = None
        for profile in PROFILES:
            (result,) = audit([defect], profile, first_only=True)
            if result.found:
                self.by[defect.id] = profile, result.found[0].clause
                return

    def told(self, defect: Defect) -> str:
        """Return how a wrong loss is found, in words."""
        by = self.by[defect.id]
        return "MISSED" if by is None else f"{by[1]}, in {by[0]}"

    def summary(self, losses: Sequence[str]) -> str:
        """Return how many of the wrong losses each profile finds."""
        ids = [defect.id for loss in losses for defect in blind_defects(loss)]
        found = Counter(by[0] for each in ids if (by := self.by.get(each)) is not None)
        quick, longer = found["quick"], found["standard"]
        return (
            f"{len(ids)} wrong losses: quick finds {quick} ({quick / len(ids):.0%}),"
            f" standard {quick + longer} ({(quick + longer) / len(ids):.0%})"
        )


@cache
def _module(file: Path) -> ModuleType:
    name = ".".join((__name__, *file.relative_to(FOLDER).with_suffix("").parts))
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _named(module: ModuleType, kind: str) -> Iterator[tuple[str, Any]]:
    """Yield the losses of a file whose names begin with a word."""
    for name, thing in list(vars(module).items()):
        own = getattr(thing, "__module__", None) == module.__name__
        if own and callable(thing) and name.lower().startswith(kind):
            yield name, thing


def _given(thing: Callable[..., Any]) -> Callable[[], Callable[..., Any]]:
    return lambda: thing


def _sentence(thing: Any) -> str:
    return " ".join((inspect.getdoc(thing) or "").split())
