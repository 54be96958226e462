"""A call of an implementation as a person would type it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from lossspec.cases.case import Case, listed
from lossspec.dtypes import dtype_name
from lossspec.execution.call import argument, keywords, owned
from lossspec.execution.implementation import LossUnderTest
from lossspec.execution.tensors import to_numpy
from lossspec.safe_text import foreign_error
from lossspec.spec.roles import Role

#: How many characters of a tensor are written, and so how many numbers at most.
LISTED = 300


def call_text(
    under_test: LossUnderTest,
    case: Case,
    replaced: Mapping[str, Any] | None = None,
    *,
    backward: bool = False,
) -> str:
    """The call as a person would type it; its shapes alone where that cannot be written.

    backward : whether to write its backward too, with the cotangent (the upstream gradient).
    """
    try:
        return _written(under_test, case, replaced, backward)
    except Exception as error:  # of lossspec itself: what the call shows must not be lost by it
        shapes = ", ".join(f"{n}: {dtype_name(x)} {list(x.shape)}" for n, x in case.tensors.items())
        why = foreign_error(error)
        return f"# {under_test.loss.name} of {shapes}; the call could not be written ({why})"


def _written(
    under_test: LossUnderTest, case: Case, replaced: Mapping[str, Any] | None, backward: bool
) -> str:
    form = under_test.loss.form(case.form)
    roles, replaced = under_test.loss.roles(form), replaced or {}
    given = {name: _passed(roles[name], array) for name, array in case.tensors.items()}
    backward = backward and bool(set(case.requires_grad) - set(replaced))
    for name in case.requires_grad if backward else ():
        given[name] = f"{given[name].removesuffix(')')}, requires_grad=True)"
    passed = {name: repr(value) for name, value in keywords(under_test, case, {}).items()}
    for name, value in replaced.items():
        (given if name in given else passed)[name] = _replaced(value)
    lines = [f"{name} = {text}" for name, text in given.items()]
    own = owned(under_test, case)
    extra = [f"{name}={name}" for name in case.tensors if name not in {**form.tensors, **own}]
    extra += [f"{name}={text}" for name, text in passed.items()]
    call = ", ".join(
        name
        if role.through is None
        else f"torch.{role.through}({name}, {axes.index(under_test.loss.classes)})"
        for (name, role), axes in zip(form.tensors.items(), case.shape.inputs, strict=True)
        if name not in own
    )
    if under_test.surface == "class":
        made = f"{under_test.loss.module}({', '.join(extra)})"
        if own:
            lines.append(f"loss = {made}")
            made = "loss"
        for name, path in own.items():
            lines.append(f"state = loss.get_parameter({path!r})")
            lines.append(f"state.data = {name}.reshape(state.shape)")
        result = under_test.loss.results.get(case.reduction)
        made = f"{made}({call}){f'.{result}' if result else ''}"
    else:
        made = f"{under_test.loss.name}({', '.join([call, *extra])})"
    lines.append(f"value = {made}" if backward else made)
    if backward:
        lines.append("# the cotangent (upstream gradient):")
        lines.append(f"value.backward({_short(np.asarray(case.upstream(case.reduction)))})")
    for name, layout in case.layouts.items():
        if name not in replaced and not roles[name].scalar:
            lines.append(f"# {name} is stored {layout}")
    return "\n".join(lines)


def _passed(role: Role, array: np.ndarray) -> str:
    """What a call passes for the numbers of a role, as Python."""
    if not role.scalar:
        return _short(array)
    text = repr(argument(role, array))
    return text if len(text) <= LISTED else f"{text[: LISTED - 20]} ... {array.size} numbers"


def _replaced(value: Any) -> str:
    """What a call passes in place of a case's own, as Python."""
    if isinstance(value, torch.Tensor):
        return _short(to_numpy(value))
    return f"{_short(value)}.numpy()" if isinstance(value, np.ndarray) else repr(value)


def _short(array: Any) -> str:
    part = array
    for axis in range(array.ndim):  # a large one is cut before it is written
        keep = max(1, LISTED * part.shape[axis] // max(part.size, 1))
        part = part[(slice(None),) * axis + (slice(keep),)]
    text = repr(part.tolist() if part.dtype.kind == "c" else listed(part)).replace("'", "")
    if len(text) > LISTED or part.size < array.size:
        text = f"{text[: LISTED - 20]} ... {array.size} numbers"
    return f"tensor({text}, dtype={dtype_name(array)})"
