"""The suite from Python: `check` one function or class, or make tests of another suite."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from lossspec.campaign import profile_named
from lossspec.devices import DeviceError, chosen
from lossspec.implementations import Implementation, load, unconstructed
from lossspec.plan import Plan, Planned
from lossspec.run import Run, failure_text
from lossspec.safe_text import one_line
from lossspec.spec import Loss, UnknownName, find
from lossspec.verdict import Cell


def check(
    loss: str | Loss,
    target: Callable[..., Any],
    *,
    profile: str = "standard",
    seed: int = 0,
    clauses: Sequence[str] | None = None,
    dtypes: Sequence[str] | None = None,
    device: str = "cpu",
) -> list[Cell]:
    """The verdicts on one function or class, a record for each clause that applies.

    loss : the name of a specified loss, or a `Loss` of your own. target : called as torch's
    function of that name, or a class constructed as torch's; TypeError when it is neither.
    UnknownName and DeviceError list what is known.

    >>> import torch, lossspec
    >>> cells = lossspec.check("l1_loss", torch.nn.functional.l1_loss, clauses=["result-shape"])
    >>> [f"{cell.id}: {cell.verdict}" for cell in cells]
    ['l1_loss/result-shape[function-cpu]: conforms']
    """
    spec = find(loss) if isinstance(loss, str) else loss
    for dtype in _names(dtypes) or ():
        if dtype not in spec.dtypes:
            raise UnknownName("dtype", dtype, spec.dtypes)
    devices = _devices(device)
    name = getattr(target, "__qualname__", type(target).__qualname__)
    if not callable(target):
        raise TypeError(f"target is a function or a class, got {one_line(repr(target))}")
    if (wrong := unconstructed(spec, target, "function")) is not None:
        raise TypeError(
            f"target {wrong}; to judge this one instance as a function, pass "
            "lambda *tensors: instance(*tensors)"
        )
    if not inspect.isclass(target):
        implementation = Implementation(name, functions={spec.name: target}, own=(spec,))
    elif spec.module is not None:
        implementation = Implementation(name, classes={spec.module: target}, own=(spec,))
    else:
        raise TypeError(f"{spec.name} is specified as a function only, got the class {name}")
    run = Run(profile_named(profile), _seed(seed), _names(dtypes))
    plan = Plan(
        [implementation],
        (spec.name,),
        _names(clauses),
        devices,
        profile != "quick",
    )
    plan.check()
    cells = [cell for cell in plan.cells() if cell.applies]
    return [run.judge(cell, cells)[0] for cell in cells]


def parametrize(
    implementation: str | Implementation,
    *,
    losses: Sequence[str] | None = None,
    clauses: Sequence[str] | None = None,
    profile: str = "quick",
    seed: int = 0,
    device: str = "cpu",
) -> Any:
    """A decorator that makes one test for each cell, for a library's own suite.

    The test function takes one argument, `judge`; calling it judges the cell, raises
    AssertionError with the whole story when it deviates, and returns its record.

    >>> @lossspec.parametrize("mylib.losses")
    ... def test_conformance(judge):
    ...     judge()
    """
    import pytest

    subject = load(implementation) if isinstance(implementation, str) else implementation
    if not isinstance(subject, Implementation):
        raise TypeError(
            "parametrize takes the name of an implementation or a lossspec.Implementation, got "
            f"{subject!r}; lossspec.check takes a function or a class"
        )
    plan = Plan(
        [subject],
        _names(losses),
        _names(clauses),
        _devices(device),
        slow=profile != "quick",
    )
    plan.check()
    run = Run(profile_named(profile), _seed(seed))
    cells = [cell for cell in plan.cells() if cell.applies and cell.subject is not None]
    return pytest.mark.parametrize(
        "judge",
        [
            pytest.param(
                _Judge(run, cell, [c for c in cells if c.campaign == cell.campaign]),
                id=cell.id,
                marks=pytest.mark.xdist_group(cell.campaign),
            )
            for cell in cells
        ],
    )


class _Judge:
    """What the test function of `parametrize` calls; pytest prints it with each failure."""

    def __init__(self, run: Run, cell: Planned, beside: Sequence[Planned]) -> None:
        self.run, self.cell, self.beside = run, cell, beside

    def __call__(self) -> Cell:
        __tracebackhide__ = True
        record, _ = self.run.judge(self.cell, self.beside)
        if record.verdict.fails:
            raise AssertionError(failure_text(record))
        return record

    def __repr__(self) -> str:
        return f"<judge of {self.cell.key}>"


def _names(given: Sequence[str] | None) -> tuple[str, ...] | None:
    """One name or several; none at all are all of them."""
    return ((given,) if isinstance(given, str) else tuple(given)) if given else None


def _seed(given: Any) -> int:
    if not isinstance(given, int) or given < 0:
        raise ValueError(f"seed takes a whole number of 0 or more, got {given!r}")
    return given


def _devices(given: str) -> tuple[str, ...]:
    try:
        return chosen((given,))
    except DeviceError as error:
        raise DeviceError(str(error).removeprefix("--")) from None
