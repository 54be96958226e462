"""The suite from Python: `check` one function or class, or make tests of another suite."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from lossspec.campaign import PROFILES
from lossspec.devices import chosen
from lossspec.implementations import Implementation, load
from lossspec.plan import Cell, Plan
from lossspec.run import Run, failure_text
from lossspec.spec import Loss, UnknownName, find
from lossspec.verdict import Cell as Record


def check(
    loss: str | Loss,
    target: Callable[..., Any],
    *,
    profile: str = "standard",
    seed: int = 0,
    clauses: Sequence[str] | None = None,
    dtypes: Sequence[str] | None = None,
    device: str = "cpu",
) -> list[Record]:
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
    for dtype in dtypes or ():
        if dtype not in spec.dtypes:
            raise UnknownName("dtype", dtype, spec.dtypes)
    devices = chosen((device,))
    name = getattr(target, "__qualname__", type(target).__qualname__)
    if not callable(target):
        raise TypeError(f"target is a function or a class, got {target!r}")
    if not inspect.isclass(target):
        implementation = Implementation(name, functions={spec.name: target}, own=(spec,))
    elif spec.module is not None:
        implementation = Implementation(name, classes={spec.module: target}, own=(spec,))
    else:
        raise TypeError(f"{spec.name} is specified as a function only, got the class {name}")
    run = Run(_profile(profile), seed, tuple(dtypes) if dtypes else None)
    plan = Plan(
        [implementation],
        (spec.name,),
        tuple(clauses) if clauses else None,
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

    devices = chosen((device,))
    subject = load(implementation) if isinstance(implementation, str) else implementation
    plan = Plan(
        [subject],
        tuple(losses) if losses else None,
        tuple(clauses) if clauses else None,
        devices,
        slow=profile != "quick",
    )
    plan.check()
    run = Run(_profile(profile), seed)
    cells = [cell for cell in plan.cells() if cell.applies and cell.subject is not None]
    return pytest.mark.parametrize(
        "judge",
        [
            pytest.param(
                partial(_judge, run, cell, [c for c in cells if c.campaign == cell.campaign]),
                id=cell.id,
                marks=pytest.mark.xdist_group(cell.campaign),
            )
            for cell in cells
        ],
    )


def _judge(run: Run, cell: Cell, beside: Sequence[Cell]) -> Record:
    __tracebackhide__ = True
    record, _ = run.judge(cell, beside)
    if record.verdict.fails:
        raise AssertionError(failure_text(record))
    return record


def _profile(name: str) -> Any:
    if name not in PROFILES:
        raise UnknownName("profile", name, list(PROFILES))
    return PROFILES[name]
