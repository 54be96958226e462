"""A call of an implementation as a person would type it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from lossspec.cases.case import Case, listed
from lossspec.dtypes import dtype_name
from lossspec.execution.call import Call, Positional, argument
from lossspec.execution.implementation import LossUnderTest
from lossspec.execution.tensors import to_numpy
from lossspec.safe_text import foreign_error
from lossspec.spec.loss import place_text
from lossspec.spec.roles import Role

#: The most characters that are written of a tensor, which also limits its numbers.
LISTED = 300


def call_text(
    under_test: LossUnderTest,
    case: Case,
    replaced: Mapping[str, Any] | None = None,
    *,
    backward: bool = False,
    graph: bool = False,
) -> str:
    """Return a call as a person would type it, or only its shapes if it cannot be written.

    Args:
        under_test: The implementation under test.
        case: The case whose call is written.
        replaced: Arguments that are passed instead of the case's own.
        backward: Whether to write the backward call too, with the cotangent.
        graph: Whether to write which tensors require a gradient; a backward call shows it too.
    """
    try:
        return _written(Call.of(under_test, case, replaced), backward, graph)
    except Exception as error:  # an error of ours must not lose the deviation that is reported
        shapes = ", ".join(f"{n}: {dtype_name(x)} {list(x.shape)}" for n, x in case.tensors.items())
        why = foreign_error(error)
        return f"# {under_test.loss.name} of {shapes}; the call could not be written ({why})"


def _written(call: Call, backward: bool, graph: bool) -> str:
    case, roles, replaced = call.case, call.roles, call.replaced
    given = {name: _passed(roles[name], array) for name, array in case.tensors.items()}
    given |= {name: _replaced(replaced[name]) for name in given if name in replaced}
    backward = backward and bool(call.differentiated)
    for name in call.differentiated if backward or graph else ():
        given[name] = f"{given[name].removesuffix(')')}, requires_grad=True)"
    lines = [f"{name} = {text}" for name, text in given.items()]
    lines += _expression(call, backward)
    if backward:
        lines.append("# the cotangent (the gradient that backward receives):")
        lines.append(f"value.backward({_short(np.asarray(case.upstream(case.reduction)))})")
    for name, layout in case.layouts.items():
        if name not in replaced and not roles[name].scalar:
            lines.append(f"# {name} is stored {layout}")
    return "\n".join(lines)


def _expression(call: Call, named: bool) -> list[str]:
    """Return the lines of the call itself.

    Args:
        call: The call to write.
        named: Whether to assign the result to `value`.
    """
    loss = call.under_test.loss
    extra = [f"{name}={name}" for name in call.tensor_keywords]
    for name, value in call.keywords.items():
        extra.append(f"{name}={_replaced(value) if name in call.replaced else python_text(value)}")
    passed = ", ".join(map(_positional, call.positional))
    lines = []
    if call.under_test.surface == "class":
        made = f"{loss.module}({', '.join(extra)})"
        if call.owned:
            lines.append(f"loss = {made}")
            made = "loss"
        for name, path in call.owned.items():
            lines.append(f"state = loss.get_parameter({path!r})")
            lines.append(f"state.data = {name}.reshape(state.shape)")
        made = f"{made}({passed}){place_text(call.result)}"
    else:
        made = f"{loss.name}({', '.join([passed, *extra])}){place_text(call.result)}"
    return [*lines, f"value = {made}" if named else made]


def _positional(one: Positional) -> str:
    if one.through is None:
        return one.name
    return f"torch.{one.through}({one.name}, {one.axis})"


def _passed(role: Role, array: np.ndarray) -> str:
    """Return the Python text of the argument for the numbers of a role."""
    if not role.scalar:
        return _short(array)
    text = repr(argument(role, array))
    return text if len(text) <= LISTED else f"{text[: LISTED - 20]} ... {array.size} numbers"


def _replaced(value: Any) -> str:
    """Return the Python text of an argument that replaces the case's own."""
    if isinstance(value, torch.Tensor):
        return _short(to_numpy(value))
    return f"{_short(value)}.numpy()" if isinstance(value, np.ndarray) else python_text(value)


def _short(array: Any) -> str:
    if 0 in array.shape[:-1]:  # lists show no axis behind an empty one
        return f"empty({', '.join(map(str, array.shape))}, dtype={dtype_name(array)})"
    part = array
    for axis in range(array.ndim):  # cut a large array before repr, which is slow
        keep = max(1, LISTED * part.shape[axis] // max(part.size, 1))
        part = part[(slice(None),) * axis + (slice(keep),)]
    text = repr(part.tolist() if part.dtype.kind == "c" else listed(part)).replace("'", "")
    if len(text) > LISTED or part.size < array.size:
        text = f"{text[: LISTED - 20]} ... {array.size} numbers"
    return f"tensor({text}, dtype={dtype_name(array)})"


def python_text(value: Any) -> str:
    """Return a value as Python code."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"float({str(value)!r})"
    if isinstance(value, tuple | list):
        inside = ", ".join(map(python_text, value))
        return f"[{inside}]" if isinstance(value, list) else f"({inside}{',' * (len(value) == 1)})"
    return repr(value)
