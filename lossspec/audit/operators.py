"""Defects made from any spec: its definition or its reduction, changed in one place."""

from __future__ import annotations

import ast
import copy
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from textwrap import dedent
from types import FunctionType
from typing import Any

import numpy as np
import torch

from lossspec.audit import Defect
from lossspec.cases.case import Case
from lossspec.dtypes import precision
from lossspec.execution.implementation import LossUnderTest
from lossspec.execution.outcome import Outcome, perform
from lossspec.execution.tensors import dtype_of, to_extended
from lossspec.implementations.oracle import function
from lossspec.judging.profiles import PROFILES
from lossspec.judging.stream import stream
from lossspec.spec.loss import Form, Loss

#: Two numbers differ if they are further apart than this, in unit roundoffs of the larger one.
APART = 1000
#: The number of cases that are tried to show that a version is wrong.
TRIED = 150
#: The maths words whose call may be replaced by its first argument.
WORDS = (
    *("absolute", "acos", "clamped", "clamped_log", "cumulative_sum", "erf", "exp", "expm1"),
    *("log", "log1p", "log_softmax", "minus_log_sigmoid", "norm", "positive_part", "sigmoid"),
    *("softmax", "softplus", "sort", "sqrt", "tanh", "x_log_x"),
)
SWAPPED = {
    **{"minimum": "maximum", "maximum": "minimum", "total": "mean", "mean": "total"},
    **{"product": "total", "logaddexp": "maximum", "log_sum_exp": "largest"},
}
FLIPPED: Mapping[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
}


def variants(loss: Loss) -> Iterator[Defect]:
    """Yield each version of a loss that is changed in one place and gives a wrong result."""
    right = function(loss)
    for index, (wrong, make) in enumerate(_versions(loss)):
        made = Defect(f"version-{index}", loss.name, make, wrong)
        if witness(loss, right, make()) is not None:
            yield made


def witness(loss: Loss, right: Callable[..., Any], wrong: Callable[..., Any]) -> Case | None:
    """Return the first case in which two functions of a loss differ clearly; None if none does."""
    profile = replace(PROFILES["standard"], examples=TRIED)
    for solved in stream(loss, profile, start=1):
        want, got = (
            perform(LossUnderTest("audit", loss, "function", each), solved.case)
            for each in (right, wrong)
        )
        if want.error is None and _apart(got, want):
            return solved.case
    return None


def _held(tensor: torch.Tensor) -> torch.Tensor:
    """Return the same tensor, with a gradient that is always 0."""
    if tensor.requires_grad:
        tensor = tensor.view_as(tensor)
        tensor.register_hook(torch.zeros_like)  # type: ignore[no-untyped-call]
    return tensor


def _apart(got: Outcome, want: Outcome) -> bool:
    if got.error is not None or got.value.dtype != want.value.dtype:
        return True
    pairs = [(got.value, want.value)]
    pairs += [(got.gradients[name], tensor) for name, tensor in want.gradients.items()]
    return any(_differ(*pair) for pair in pairs)


def _differ(got: torch.Tensor | None, want: torch.Tensor | None) -> bool:
    if got is None or want is None:
        return got is not want
    if got.shape != want.shape:
        return True
    unit = precision(dtype_of(want)).unit
    a, b = to_extended(got), to_extended(want)
    with np.errstate(all="ignore"):
        near = np.abs(a - b) <= APART * unit * np.maximum(np.abs(a), np.abs(b))
    return not (near | (a == b) | (np.isnan(a) & np.isnan(b))).all()


def _versions(loss: Loss) -> Iterator[tuple[str, Callable[[], Callable[..., Any]]]]:
    for number, form in enumerate(loss.forms):
        place = f" ({form.name})" if form.name else ""
        # Change a shared definition once, for all forms that use it.
        if form.define is not None or number == 0:
            for change in _changes(form.define or loss.define):
                wrong = _with_definition(loss, form, change.made)
                yield f"{change.says}{place if form.define else ''}", _makes(wrong)
        if form.divisor is not None:
            yield (
                f"The mean divides by the number of elements{place}.",
                _makes(_with_form(loss, replace(form, divisor=None))),
            )
            for change in _changes(form.divisor):
                wrong = _with_form(loss, replace(form, divisor=change.made))
                yield f"In the divisor: {change.says}{place}", _makes(wrong)
    yield from _wrapped(loss)


def _makes(loss: Loss) -> Callable[[], Callable[..., Any]]:
    return lambda: function(loss)


def _with_form(loss: Loss, form: Form) -> Loss:
    return replace(loss, forms=tuple(form if f.name == form.name else f for f in loss.forms))


def _with_definition(loss: Loss, form: Form, define: Callable[..., Any]) -> Loss:
    if form.define is None:
        return replace(loss, define=define)
    return _with_form(loss, replace(form, define=define))


# === changes of the source ================================================================


@dataclass(frozen=True)
class _Change:
    """A definition that is changed in one place.

    Attributes:
        says: The change, in one sentence.
        made: The changed definition.
    """

    says: str
    made: Callable[..., Any]


def _changes(define: Callable[..., Any]) -> Iterator[_Change]:
    """Yield each change in one place of a definition, or of a function of its module it uses."""
    parts = _parts(define)
    for name, tree in parts.items():
        for count in range(sum(1 for _ in ast.walk(tree))):
            for choice in range(8):
                changed = copy.deepcopy(tree)
                says = _changed(changed, count, choice)
                if says is None:
                    break
                scope = dict(define.__globals__)
                for other, whole in {**parts, name: changed}.items():
                    module = ast.Module([ast.fix_missing_locations(whole)], [])
                    exec(compile(module, f"<{other}>", "exec"), scope)
                yield _Change(says, scope[define.__name__])


def _parts(define: Callable[..., Any]) -> dict[str, ast.stmt]:
    """Return the parsed source of a definition and of the functions of its module that it uses."""
    parts: dict[str, ast.stmt] = {}
    waiting = [define]
    while waiting:
        part = waiting.pop()
        if part.__name__ in parts:
            continue
        parts[part.__name__] = ast.parse(dedent(inspect.getsource(part))).body[0]
        for name in part.__code__.co_names:
            used = define.__globals__.get(name)
            if isinstance(used, FunctionType) and used.__module__ == define.__module__:
                waiting.append(used)
    return parts


def _changed(tree: ast.stmt, count: int, choice: int) -> str | None:
    """Change one expression of a tree in place.

    Args:
        tree: The tree.
        count: The index of the expression, in the order of `ast.walk`.
        choice: The index of the replacement.

    Returns:
        The change in one sentence; None if there is no such expression or replacement.
    """
    for parent in ast.walk(tree):
        for name, value in ast.iter_fields(parent):
            places = enumerate(value) if isinstance(value, list) else [(None, value)]
            for at, node in places:
                if not isinstance(node, ast.expr) or name in ("slice", "keywords", "defaults"):
                    continue
                if count > 0:
                    count -= 1
                    continue
                options = list(_instead(node))
                if choice >= len(options):
                    return None
                if at is None:
                    setattr(parent, name, options[choice])
                else:
                    value[at] = options[choice]
                return f"`{ast.unparse(node)}` became `{ast.unparse(options[choice])}`."
    return None


def _instead(node: ast.expr) -> Iterator[ast.expr]:
    """Yield the wrong replacements of an expression."""
    match node:
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            yield from (left, right, ast.BinOp(left, ast.Sub(), right))
        case ast.BinOp(left=left, op=ast.Sub(), right=right):
            yield from (left, ast.UnaryOp(ast.USub(), right), ast.BinOp(left, ast.Add(), right))
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            yield from (left, right)
        case ast.BinOp(left=left, op=ast.Div() | ast.Pow()):
            yield left
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            yield operand
        case ast.Constant(value=bool()):
            return
        case ast.Constant(value=int() | float() as value):
            yield ast.Constant(2 * value if value else 1)
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in FLIPPED:
            yield ast.Compare(left, [FLIPPED[type(op)]()], [right])
        case ast.IfExp(body=body, orelse=orelse):
            yield from (body, orelse)
        case ast.Call(func=ast.Name(id="where"), args=[test, yes, no]):
            yield from (yes, no, ast.Call(node.func, [test, no, yes], []))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=named) if name in SWAPPED:
            yield ast.Call(ast.Name(SWAPPED[name], ast.Load()), args, named)
            yield from args
        case ast.Call(func=ast.Name(id=name), args=[first, *_]) if name in WORDS:
            yield first


# === changes of the reduction, the gradient and the dtype =================================


def _wrapped(loss: Loss) -> Iterator[tuple[str, Callable[[], Callable[..., Any]]]]:
    """Yield versions of a loss with a wrong reduction, a wrong gradient or a wrong dtype."""
    right = function(loss)
    first = loss.forms[0]
    names = list(first.tensors)

    def version(change: Callable[..., Any]) -> Callable[[], Callable[..., Any]]:
        def call(*tensors: Any, reduction: str = loss.reductions[0], **options: Any) -> Any:
            return change(tensors, reduction, options)

        call.__signature__ = inspect.signature(right)  # type: ignore[attr-defined]
        return lambda: call

    if {"none", "mean", "sum"} <= set(loss.reductions):

        def swapped(one: str, other: str) -> Callable[..., Any]:
            return lambda tensors, reduction, options: right(
                *tensors, reduction=other if reduction == one else reduction, **options
            )

        def by_samples(tensors: Any, reduction: str, options: Any) -> Any:
            if reduction != "mean" or not tensors[0].ndim:
                return right(*tensors, reduction=reduction, **options)
            return right(*tensors, reduction="sum", **options) / len(tensors[0])

        def plain(tensors: Any, reduction: str, options: Any) -> Any:
            if reduction != "mean":
                return right(*tensors, reduction=reduction, **options)
            losses = right(*tensors, reduction="none", **options)
            return losses.sum() / losses.numel()

        yield "`sum` gives the mean.", version(swapped("sum", "mean"))
        yield "`mean` gives the sum.", version(swapped("mean", "sum"))
        yield "`none` gives the sum.", version(swapped("none", "sum"))
        yield "The mean divides by the length of the first axis.", version(by_samples)
        if any(form.divisor or form.share for form in loss.forms):
            yield "The mean divides by the number of elements.", version(plain)

    for position, name in enumerate(names):
        if first.tensors[name].differentiable and not first.tensors[name].integer:

            def held(tensors: Any, reduction: str, options: Any, at: int = position) -> Any:
                given = [_held(t) if i == at else t for i, t in enumerate(tensors)]
                return right(*given, reduction=reduction, **options)

            yield f"The gradient of {name} is 0.", version(held)

    def narrowed(dtype: torch.dtype, into: torch.dtype) -> Callable[..., Any]:
        def cast(x: Any) -> Any:
            return x.to(into) if isinstance(x, torch.Tensor) and x.dtype == dtype else x

        def change(tensors: Any, reduction: str, options: Any) -> Any:
            options = {name: cast(value) for name, value in options.items()}
            value = right(*map(cast, tensors), reduction=reduction, **options)
            return value.to(dtype) if value.dtype == into != tensors[0].dtype else value

        return change

    yield "float64 is computed in float32.", version(narrowed(torch.float64, torch.float32))
    yield "float32 is computed in bfloat16.", version(narrowed(torch.float32, torch.bfloat16))

    def float32(tensors: Any, reduction: str, options: Any) -> Any:
        return right(*tensors, reduction=reduction, **options).float()

    yield "The result is float32 for every dtype.", version(float32)
