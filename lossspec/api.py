"""The Python interface: `check` for one function or class, `parametrize` for a test suite."""

from __future__ import annotations

import functools
import inspect
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch

from lossspec.cases.hypothesis_runs import failures_database
from lossspec.errors import ArgumentError, ArgumentTypeError, EmptyPlan, UnknownName
from lossspec.execution.declaration import Declaration, Supports
from lossspec.execution.devices import given_devices
from lossspec.execution.implementation import Implementation, LossUnderTest
from lossspec.execution.loading import load
from lossspec.expectation.answer import spec_of
from lossspec.judging.plan import CellPlan, Plan
from lossspec.judging.profiles import profile_named
from lossspec.judging.run import Run
from lossspec.render.cells import Cells
from lossspec.report.records import Cell
from lossspec.report.text import failure_text
from lossspec.report.verdict import Verdict
from lossspec.safe_text import one_line
from lossspec.spec.loss import Loss


def check(
    loss: str | Loss,
    target: Callable[..., Any],
    *,
    profile: str = "standard",
    seed: int = 0,
    clauses: Sequence[str] | str | None = None,
    dtypes: Sequence[str | torch.dtype] | str | torch.dtype | None = None,
    device: str | torch.device = "cpu",
    supports: Supports = (),
    differentiable: bool | Literal["twice"] | None = None,
    compiles: bool | None = None,
    conventions: Mapping[str, Any] | None = None,
) -> Cells:
    """Judge one function or class, and return a list with a record for each clause.

    The list prints as a summary, and a notebook shows it as a table. On a terminal or in a
    notebook, a line on standard error shows the progress.

    Args:
        loss: The name of a specified loss, or a `Loss` of your own.
        target: A function with the signature of torch's function, a class with the constructor of
            torch's class, or an instance of such a class constructed with the defaults.
        profile: The number of cases: "quick", "standard" or "deep".
        seed: The seed of the cases, a whole number of 0 or more.
        clauses: The clauses to judge; all by default.
        dtypes: The dtypes to draw; all dtypes of the spec by default.
        device: The torch device of the tensors, or "all".
        supports: The features that the target declares, see `lossspec.Declaration`. A declared
            feature that does not work is a deviation.
        differentiable: Whether the target declares a first or second derivative.
        compiles: Whether the target declares to work under `torch.compile`.
        conventions: The values that the target uses for parameters that it does not accept.

    Raises:
        ArgumentTypeError: `target` is no function, no class and no suitable instance.
        DeviceError: This machine has no such device.
        EmptyPlan: No clause applies to the loss.
        UnknownName: No such loss, clause, dtype or profile exists.

    Example:
        >>> import torch, lossspec
        >>> cells = lossspec.check("l1_loss", torch.nn.functional.l1_loss, clauses=["result-shape"])
        >>> cells
        l1_loss (function, cpu): 1 of 1 clauses conform
        >>> cells[0]
        <Cell l1_loss/result-shape[function-cpu]: conforms>
    """
    spec = spec_of(loss)
    chosen_dtypes = _names(dtypes)
    for dtype in chosen_dtypes or ():
        if dtype not in spec.dtypes:
            raise UnknownName("dtype", dtype, spec.dtypes)
    devices = given_devices(device)
    by_loss = {spec.name: conventions} if conventions else {}
    declaration = Declaration(supports, differentiable, compiles, by_loss)
    implementation = _implementation(spec, target).declaring(declaration)
    line = _ProgressLine(spec.name)
    run = Run(profile_named(profile), _seed(seed), chosen_dtypes, on_progress=line)
    run.database = failures_database()
    plan = Plan(
        [implementation],
        (spec.name,),
        _names(clauses),
        devices,
        profile != "quick",
    )
    plan.check()
    cells = [cell for cell in plan.cells() if cell.applies]
    try:
        return Cells(run.judge(cell, cells)[0] for cell in cells)
    finally:
        line.clear()


def _implementation(spec: Loss, target: Any) -> Implementation:
    """Return an implementation whose only loss is the given function, class or instance."""
    if isinstance(target, str):
        raise ArgumentTypeError(
            f"target takes a function or a class, got the name {target!r}; lossspec.parametrize "
            "and the command `lossspec run` take names"
        )
    if not callable(target):
        holds = inspect.ismodule(target)
        names = [name for name in (spec.name, spec.module) if holds and hasattr(target, name or "")]
        hint = f"; pass {target.__name__}.{names[0]}" if names else ""
        raise ArgumentTypeError(
            f"target takes a function or a class, got {one_line(repr(target))}{hint}"
        )
    if not inspect.isclass(target):
        name = getattr(target, "__qualname__", type(target).__qualname__)
        _constructed_plainly(spec, target)
        return Implementation(name, functions={spec.name: target}, own=(spec,))
    if spec.module is None:
        raise ArgumentTypeError(
            f"{spec.name} is specified as a function only, got the class {target.__qualname__}; "
            "pass a function"
        )
    return Implementation(target.__qualname__, classes={spec.module: target}, own=(spec,))


def _constructed_plainly(spec: Loss, target: Any) -> None:
    """Raise an error for an instance whose options differ from the defaults.

    A call cannot change these options, so that the cases with other options would deviate.

    Raises:
        ArgumentTypeError: The instance has an option of its own, or tensors of its own.
    """
    if inspect.isroutine(target) or isinstance(target, functools.partial):
        return
    kind = type(target).__qualname__
    instead = f"; pass the class {kind}, which is then constructed with the options of each case"
    if spec.stateful("class"):
        raise ArgumentTypeError(
            f"target takes no instance that holds tensors, got an instance of {kind}{instead}"
        )
    under_test = LossUnderTest(kind, spec, "function", target)
    usual: dict[str, Any] = dict.fromkeys(spec.options)
    usual |= {name: parameter.default for name, parameter in spec.parameters.items()}
    for name, default in {**usual, "reduction": spec.reductions[0]}.items():
        given = getattr(target, name, default)
        if (
            not under_test.takes(name)
            and not _equal(given, default)
            and not _is_usual(target, name)
        ):
            raise ArgumentTypeError(
                f"target takes an instance with default options, got an instance of {kind} with "
                f"{name}={given!r} instead of {default!r}{instead}"
            )


def _equal(given: Any, default: Any) -> bool:
    try:
        return given is default or bool(given == default)
    except Exception:  # a tensor of several elements, or a comparison that raises
        return False


def _is_usual(target: Any, name: str) -> bool:
    """Tell whether an attribute is a callable that the class makes for default arguments."""
    given = getattr(target, name)
    if not callable(given):
        return False
    try:
        plain = getattr(type(target)(), name)
        return type(plain) is type(given) and bool(vars(plain) == vars(given))
    except Exception:  # it needs arguments, or has no attributes to compare
        return False


class _ProgressLine:
    """A line on standard error that shows the progress of a check."""

    #: The time before the line is first shown and between two updates, in seconds.
    WAIT = 0.5

    def __init__(self, what: str) -> None:
        self.what = what
        self.started = self.shown = time.monotonic()
        self.width = 0
        self.wanted = _watched()

    def __call__(self, done: int, total: int, deviations: int) -> None:
        """Show the number of judged cases and of deviations so far."""
        now = time.monotonic()
        if not self.wanted or now - self.shown < self.WAIT:
            return
        self.shown = now
        found = f", {deviations} deviation{'' if deviations == 1 else 's'}" if deviations else ""
        text = f"{self.what}: {done} of {total} cases{found}, {now - self.started:.0f} s"
        self._write(f"\r{text:{self.width}s}")
        self.width = len(text)

    def clear(self) -> None:
        """Remove the line, if it is shown."""
        if self.width:
            self._write(f"\r{'':{self.width}s}\r")
            self.width = 0

    def _write(self, text: str) -> None:
        try:
            sys.stderr.write(text)
            sys.stderr.flush()
        except (OSError, ValueError):  # a closed stream must not end the check
            self.wanted = False


def _watched() -> bool:
    """Tell whether standard error is a terminal or a notebook, outside of CI."""
    if os.environ.get("CI", "").lower() not in ("", "0", "false"):
        return False
    if sys.stderr is None:  # pythonw has no standard error
        return False
    if sys.stderr.isatty():
        return True
    interactive = getattr(sys.modules.get("IPython"), "get_ipython", None)
    return interactive is not None and interactive() is not None


def parametrize(
    implementation: str | Implementation,
    *,
    losses: Sequence[str] | str | None = None,
    clauses: Sequence[str] | str | None = None,
    profile: str = "quick",
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> Any:
    """Return a decorator that makes one test for each cell, for a library's own suite.

    The test function takes one argument, `judge`, and calls it without arguments. The call judges
    the cell and returns its record. If the clause deviates, the call raises AssertionError with
    the failure message. If the cell was not judged, the call skips the test.

    Args:
        implementation: A name as for `--impl`, or a `lossspec.Implementation`.
        losses: The losses to judge; all by default.
        clauses: The clauses to judge; all by default.
        profile: The number of cases: "quick", "standard" or "deep".
        seed: The seed of the cases, a whole number of 0 or more.
        device: The torch device of the tensors, or "all".

    Raises:
        ArgumentTypeError: `implementation` is neither a name nor an implementation.
        DeviceError: This machine has no such device.
        EmptyPlan: The implementation has none of the losses, or no clause applies to them.
        ImplementationError: The name cannot be loaded.
        UnknownName: No such loss, clause or profile exists.

    Example:
        >>> @lossspec.parametrize("mylib.losses")
        ... def test_conformance(judge):
        ...     judge()
    """
    import pytest

    under_test = load(implementation) if isinstance(implementation, str) else implementation
    if not isinstance(under_test, Implementation):
        raise ArgumentTypeError(
            "parametrize takes the name of an implementation or a lossspec.Implementation, got "
            f"{under_test!r}; lossspec.check takes a function or a class"
        )
    plan = Plan(
        [under_test],
        _names(losses),
        _names(clauses),
        given_devices(device),
        slow=profile != "quick",
    )
    plan.check()
    run = Run(profile_named(profile), _seed(seed), database=failures_database())
    cells = [cell for cell in plan.cells() if cell.applies and cell.under_test is not None]
    if not cells:
        raise EmptyPlan(f"nothing to judge: {plan.absences(under_test)}")
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
    """The argument of a test function of `parametrize`; pytest prints its repr in a failure."""

    def __init__(self, run: Run, cell: CellPlan, beside: Sequence[CellPlan]) -> None:
        self.run, self.cell, self.beside = run, cell, beside

    def __call__(self) -> Cell:
        __tracebackhide__ = True
        record, _ = self.run.judge(self.cell, self.beside)
        if record.verdict.fails:
            shown_by = self.run.shows_cause(self.cell, record)
            raise AssertionError(failure_text(record, shown_by))
        if record.verdict in (Verdict.UNSUPPORTED, Verdict.INCONCLUSIVE):
            import pytest

            # A test whose cell was not judged must not count as passed.
            pytest.skip(one_line(f"{record.verdict}: {record.reason}"))
        return record

    def __repr__(self) -> str:
        return f"<judge of {self.cell.key}>"


def _names(given: Any) -> tuple[str, ...] | None:
    """Return the given name or names as a tuple, or None; a torch.dtype stands for its name."""
    if not given:
        return None
    several = (given,) if isinstance(given, str | torch.dtype) else given
    return tuple(str(name).removeprefix("torch.") for name in several)


def _seed(given: Any) -> int:
    if not isinstance(given, int) or given < 0:
        raise ArgumentError(f"seed takes a whole number of 0 or more, got {given!r}")
    return given
