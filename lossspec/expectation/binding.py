"""Make a case from the arguments of a call, as torch's function takes them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from lossspec.cases.axes import axes_of
from lossspec.cases.binding import fit
from lossspec.cases.case import Case
from lossspec.cases.ignored import ignored_rows
from lossspec.dtypes import REAL_DTYPES, dtype_name, precision
from lossspec.errors import ArgumentError, ArgumentTypeError, UnknownName
from lossspec.execution.call import Expression
from lossspec.execution.layouts import without_numbers
from lossspec.execution.tensors import dtype_of, to_numpy
from lossspec.safe_text import one_line
from lossspec.spec.constrained import Constrained, Label, Mask
from lossspec.spec.loss import Form, Loss
from lossspec.spec.parameters import Parameter
from lossspec.spec.roles import ClassIndex, Length, Role
from lossspec.spec.shapes import Shape

#: Numbers of a tensor that are checked at once, which limits the memory of the check.
_BLOCK = 2**20


def bound(
    loss: Loss, tensors: Sequence[Any], keywords: Mapping[str, Any], reduction: str, upstream: Any
) -> Case:
    """Return the case of a call.

    Args:
        loss: The spec of the loss.
        tensors: The tensors that are passed by position.
        keywords: Optional tensors and parameters, by name.
        reduction: The reduction.
        upstream: The cotangent; None for ones.

    Raises:
        ArgumentError: A value, a shape or a combination contradicts the spec.
        ArgumentTypeError: An argument has a wrong type or dtype.
        UnknownName: A keyword or the reduction is not known.
    """
    if reduction not in loss.reductions:
        raise UnknownName("reduction", str(reduction), loss.reductions)
    given = _named(loss, tensors, keywords)
    parameters = {
        name: _parameter(name, parameter, keywords[name]) if name in keywords else parameter.default
        for name, parameter in loss.parameters.items()
    }
    arrays = {name: _array(name, _roles(loss, name), tensor) for name, tensor in given.items()}
    plain = {n for n, x in given.items() if not isinstance(x, torch.Tensor | np.ndarray)}
    dtype = _dtype(loss, {n: array for n, array in arrays.items() if n not in plain})
    forms = [f for f in loss.forms if all(n not in plain or r.scalar for n, r in f.tensors.items())]
    fitting = fit(loss, arrays, parameters, forms)
    if fitting is None:
        raise ArgumentError(_no_contract(loss, arrays, parameters))
    form, shape = fitting
    roles = loss.roles(form)
    known = loss.parameters_of(form)
    if foreign := sorted(parameters.keys() & keywords.keys() - known.keys()):
        raise ArgumentError(
            f"{loss.name} with {form.name or 'these tensors'} has no parameter {foreign[0]}; "
            f"it has {', '.join(known) or 'none'}"
        )
    case = Case(
        loss=loss.name,
        form=form.name,
        contract=shape.text,
        spread=shape.spread,
        dtype=dtype,
        tensors=arrays,
        parameters={name: parameters[name] for name in known},
        reduction=reduction,
        cotangent=np.zeros((), precision(dtype).numpy),
        requires_grad=tuple(n for n in arrays if roles[n].differentiable and not roles[n].scalar),
    )
    _check_domains(loss, form, case)
    if (refusal := case.broken_rule(loss)) is not None:
        raise ArgumentError(
            f"{refusal.says}: a right {loss.name} refuses this call; see `lossspec show "
            f"{loss.name}` for the rule"
        )
    return _with_cotangent(loss, _settled(loss, form, case), upstream)


def widened(loss: Loss, case: Case, dtype: Any) -> Case:
    """Convert the tensors of a case to the wider dtype that an implementation computes in.

    Args:
        loss: The spec of the loss.
        case: The case.
        dtype: The wider dtype, by name or as a torch.dtype.

    Raises:
        UnknownName: The loss has no such dtype, or it is not wider.
    """
    name = str(dtype).removeprefix("torch.")
    own = precision(case.dtype)
    wider = [
        other
        for other in loss.dtypes
        if precision(other).unit < own.unit and precision(other).largest >= own.largest
    ]
    if name not in wider:
        raise UnknownName(f"dtype that is wider than {case.dtype}", name, wider)
    numpy = precision(name).numpy
    tensors = {
        n: array
        if array.dtype.kind in "iub" or loss.roles(loss.form(case.form))[n].scalar
        else array.astype(numpy)
        for n, array in case.tensors.items()
    }
    return case.with_(dtype=name, tensors=tensors)


def _named(loss: Loss, tensors: Sequence[Any], keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tensors of a call by name, including the optional ones."""
    every = dict.fromkeys(name for form in loss.forms for name in form.tensors)
    known = [*every, *loss.options, *loss.parameters, "reduction", "upstream", "computed_in"]
    for name in keywords:
        if name not in known:
            raise UnknownName(f"argument of {loss.name}", name, known)
    options = {n: keywords[n] for n in loss.options if keywords.get(n) is not None}
    by_name = {name: keywords[name] for name in every if name in keywords}
    for form in loss.forms:
        names = list(form.tensors)
        if {*names[len(tensors) :]} == by_name.keys() and len(tensors) <= len(names):
            return dict(zip(names, tensors, strict=False)) | by_name | options
    wanted = " or ".join(dict.fromkeys(f"({', '.join(form.tensors)})" for form in loss.forms))
    named = f" and {', '.join(by_name)} by name" if by_name else ""
    also = f"; by keyword also {', '.join(loss.options)}" if loss.options else ""
    raise ArgumentTypeError(
        f"{loss.name} takes the tensors {wanted}{also}; got {len(tensors)} by position{named}"
    )


def _roles(loss: Loss, name: str) -> list[Role]:
    """Return the roles of a tensor in the forms that have it."""
    every = (loss.roles(form).get(name) for form in loss.forms)
    return [role for role in every if role is not None]


def _array(name: str, roles: Sequence[Role], given: Any) -> np.ndarray:
    """Return the numbers of a tensor on the host, in its own dtype, after a check of its type."""
    if isinstance(given, np.ndarray):
        given = _tensor_of(name, given)
    if any(role.scalar for role in roles) and not isinstance(given, torch.Tensor):
        plain = np.asarray(given)
        if plain.dtype.kind not in "iuf" or plain.ndim > 1:
            raise ArgumentTypeError(
                f"{name} must be a number or a tuple of numbers, got {_brief(given)}"
            )
        return plain
    if not isinstance(given, torch.Tensor):
        raise ArgumentTypeError(
            f"{name} must be a torch tensor, got {type(given).__name__}; convert it with "
            "torch.as_tensor"
        )
    kind = without_numbers(given) or ("quantized" if given.is_quantized else None)
    if kind is not None:
        raise ArgumentTypeError(f"{name} is a {kind} tensor; pass a dense tensor with numbers")
    taken = list(dict.fromkeys(dtype for role in roles for dtype in _dtypes_of(role)))
    if dtype_of(given) not in taken:
        raise ArgumentTypeError(f"{name} has dtype {dtype_of(given)}; allowed: {', '.join(taken)}")
    return to_numpy(given)


def _dtypes_of(role: Role) -> tuple[str, ...]:
    if isinstance(role, ClassIndex):
        return (*role.dtypes, *role.tolerated)
    return role.dtypes if role.integer else REAL_DTYPES


def _tensor_of(name: str, array: np.ndarray) -> torch.Tensor:
    if dtype_name(array) == "bfloat16":
        return torch.from_numpy(np.array(array).view(np.int16)).view(torch.bfloat16)
    try:
        return torch.from_numpy(np.ascontiguousarray(array).reshape(array.shape))
    except TypeError:
        raise ArgumentTypeError(
            f"{name} is an array of {array.dtype}, a dtype that torch does not have; convert it"
        ) from None


def _dtype(loss: Loss, arrays: Mapping[str, np.ndarray]) -> str:
    """Return the floating dtype of a call, which all its floating tensors must share."""
    kinds = {name: dtype_name(array) for name, array in arrays.items()}
    real = {name: dtype for name, dtype in kinds.items() if dtype in REAL_DTYPES}
    if not real:
        raise ArgumentTypeError(
            f"no tensor of {loss.name} has a floating dtype; allowed: {', '.join(loss.dtypes)}"
        )
    first, dtype = next(iter(real.items()))
    for name, other in real.items():
        if other != dtype:
            raise ArgumentTypeError(
                f"{first} is {dtype} and {name} is {other}; convert them to one dtype, since the "
                "spec does not define mixed dtypes"
            )
    if dtype not in loss.dtypes:
        raise ArgumentTypeError(
            f"{first} has dtype {dtype}; {loss.name} allows {', '.join(loss.dtypes)}"
        )
    return dtype


def _no_contract(loss: Loss, arrays: Mapping[str, np.ndarray], parameters: Any) -> str:
    given = ", ".join(f"{n} {dtype_name(x)} {list(x.shape)}" for n, x in arrays.items())
    lines = []
    for form in loss.forms:
        if all(parameters.get(name) == value for name, value in form.fixed.items()):
            kinds = [
                f"{'bool' if isinstance(r, Mask) else 'integer'} {name}"
                for name, r in form.tensors.items()
                if r.integer
            ]
            told = f" with {' and '.join(kinds)}" if kinds else ""
            lines += [f"{text}{told}" for text in form.shapes]
    names = ", ".join(next(iter(loss.forms)).tensors)
    return (
        f"no shape contract of {loss.name} fits {given}; the contracts for ({names}) are: "
        f"{'; '.join(dict.fromkeys(lines))}"
    )


def _parameter(name: str, parameter: Parameter, given: Any) -> Any:
    """Return a parameter in the type that definitions expect, after a check of its value."""
    if parameter.code:
        return _expression(name, parameter, given)
    default = parameter.default
    if isinstance(default, tuple):
        return _vector(name, parameter, given)
    wanted: type | tuple[type, ...] = type(default)
    if isinstance(default, float):
        wanted = (int, float)
    fits = isinstance(given, wanted) and isinstance(given, bool) == isinstance(default, bool)
    if not fits or (isinstance(given, float) and math.isnan(given)):
        kind = {bool: "True or False", int: "a whole number", float: "a number"}
        takes = kind.get(type(default), f"one of {', '.join(map(repr, parameter.values))}")
        raise ArgumentTypeError(f"{name} takes {takes}, got {_brief(given)}")
    if isinstance(default, str) and given not in parameter.values:
        raise UnknownName(name, given, parameter.values)
    _check_range(name, parameter, given)
    return float(given) if isinstance(default, float) else given


def _vector(name: str, parameter: Parameter, given: Any) -> tuple[float, ...]:
    """Return a tuple of numbers, after a check of its values."""
    plain = isinstance(given, list | tuple) and all(
        isinstance(x, int | float) and not isinstance(x, bool) and not math.isnan(x) for x in given
    )
    if not plain:
        raise ArgumentTypeError(f"{name} takes a tuple of numbers, got {_brief(given)}")
    value = tuple(map(float, given))
    if value in parameter.refused:
        raise ArgumentError(f"{name}={given!r} is out of range: a right loss refuses it")
    return value


def _check_range(name: str, parameter: Parameter, given: Any) -> None:
    """Raise ArgumentError for a value that a loss must refuse, or for one beyond such a value."""
    if given in parameter.refused:
        raise ArgumentError(f"{name}={given!r} is out of range: a right loss refuses it")
    valid = [x for x in parameter.values if isinstance(x, int | float)]
    if not valid or isinstance(given, bool):
        return
    for refused in parameter.refused:
        below, above = refused < min(valid), refused > max(valid)
        if (below and given <= refused) or (above and given >= refused):
            raise ArgumentError(
                f"{name}={given!r} is out of range: a right loss refuses even {refused!r}"
            )


def _expression(name: str, parameter: Parameter, given: Any) -> Any:
    """Return a parameter that is Python code; it must be one of the spec's expressions."""
    for text in parameter.values:
        if given is None or text is None:
            if given is text:
                return text
        elif given == text or _same(Expression(text).meaning, given):
            return text
    known = ", ".join(str(text) for text in parameter.values)
    raise ArgumentError(f"{name} must be one of these texts, got {_brief(given)}: {known}")


def _same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and bool(one == other)


def _check_domains(loss: Loss, form: Form, case: Case) -> None:
    """Raise ArgumentError for a number outside the domain of its role, unless it is ignored."""
    sizes = case.axis_sizes(loss)
    for name, role in loss.roles(form).items():
        if name not in case.tensors:
            continue
        array = case.tensors[name]
        if isinstance(role, Constrained):
            axes = axes_of(loss, form, case.shape, name, array.ndim)
            _check_structure(name, role, array, role.axis(axes))
            continue
        counted = _counted(form, case.shape, case, name)
        for start in range(0, array.size, _BLOCK):
            numbers = array.reshape(-1)[start : start + _BLOCK]
            allowed = _allowed(role, numbers, sizes, case.parameters)
            if not allowed.all():
                break
        else:
            continue
        wrong = ~_allowed(role, array, sizes, case.parameters) & counted
        if name == next(iter(form.tensors)):
            for ignored in ignored_rows(form, case.shape, case.tensors, case.parameters):
                wrong &= ~ignored
        if wrong.any():
            at = tuple(int(i) for i in np.argwhere(wrong)[0])
            place = f" at {list(at)}" if at else ""
            many = int(wrong.sum())
            also = f" and {many - 1:,} more such numbers" if many > 1 else ""
            raise ArgumentError(
                f"{name} holds {array[at]}{place}{also}; allowed: "
                f"{_domain(role, sizes, case.parameters)}"
            )


def _check_structure(name: str, role: Constrained, array: np.ndarray, axis: int | None) -> None:
    """Raise ArgumentError for numbers that the role does not allow together; nan is allowed."""
    wrong = ~role.holds(array, axis)
    if array.dtype.kind not in "iub":
        lost = np.isnan(array.astype(np.float64))
        wrong &= ~(lost if axis is None else lost.any(axis, keepdims=True))
    if wrong.any():
        at = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise ArgumentError(
            f"{name} holds {array[at]}{f' at {list(at)}' if at else ''}, which breaks its role; "
            f"allowed: {_domain(role, {}, {})}"
        )


def _counted(form: Form, shape: Shape, case: Case, name: str) -> Any:
    """Return a mask of the entries of a padded tensor that its lengths count."""
    if name not in form.tensors:
        return True
    axes = dict(zip(form.tensors, shape.inputs, strict=True))
    counted: Any = True
    for other, role in form.tensors.items():
        if isinstance(role, Length) and role.of in axes[name] and axes[other]:
            here = list(axes[name])
            if not set(axes[other]) <= set(here):
                continue
            lengths = case.tensors[other]
            view = [
                case.tensors[name].shape[i] if a in axes[other] else 1 for i, a in enumerate(here)
            ]
            place = np.arange(case.tensors[name].shape[here.index(role.of)])
            along = [-1 if a == role.of else 1 for a in here]
            counted = counted & (place.reshape(along) < lengths.reshape(view))
    return counted


def _allowed(
    role: Role, numbers: np.ndarray, sizes: Mapping[str, int], parameters: Mapping[str, Any]
) -> np.ndarray:
    if isinstance(role, ClassIndex):
        return role.allows(numbers, sizes[role.classes], parameters)
    if isinstance(role, Length):
        return np.asarray((numbers >= 0) & (numbers <= sizes[role.of]))
    with np.errstate(all="ignore"):
        # A nan input is allowed, since the numbers that it makes nan are not compared.
        return np.asarray(role.contains(numbers) | np.isnan(numbers))


def _domain(role: Role, sizes: Mapping[str, int], parameters: Mapping[str, Any]) -> str:
    if isinstance(role, ClassIndex):
        also = f", or {role.ignored_by}={parameters[role.ignored_by]}" if role.ignored_by else ""
        ends = f", or {role.ends} after the last class" if role.ends is not None else ""
        return f"a class from 0 to {sizes[role.classes] - 1}{also}{ends}"
    if isinstance(role, Length):
        return f"a length from 0 to {sizes[role.of]}"
    if isinstance(role, Label):
        return f"an integer label from {role.low:g} to {role.high:g}"
    doc = " ".join((type(role).__doc__ or "").split()).rstrip(".")
    return f"{doc[:1].lower()}{doc[1:]}"


def _settled(loss: Loss, form: Form, case: Case) -> Case:
    """Return the case with harmless numbers in the entries that its lengths do not count."""
    if not any(isinstance(role, Length) for role in form.tensors.values()):
        return case
    settled = case.settled(loss)
    fits = settled.parameters == case.parameters
    for name, array in case.tensors.items():
        other = settled.tensors[name]
        counted = _counted(form, case.shape, case, name)
        fits &= other.shape == array.shape and bool(((other == array) | ~np.asarray(counted)).all())
    if not fits:
        raise ArgumentError(
            f"the tensors and parameters of {loss.name} do not fit each other; "
            f"see `lossspec show {loss.name}`"
        )
    return settled


def _with_cotangent(loss: Loss, case: Case, upstream: Any) -> Case:
    """Return the case with its cotangent; ones by default."""
    sizes = case.axis_sizes(loss)
    loop = tuple(sizes[axis] for axis in case.shape.result)
    given = np.asarray(1, precision(case.dtype).numpy)
    if isinstance(upstream, torch.Tensor | np.ndarray):
        given = _array("upstream", [Role()], upstream)
    elif upstream is not None:
        if isinstance(upstream, bool) or not isinstance(upstream, int | float):
            raise ArgumentTypeError(
                f"upstream must be a tensor in the shape of the result or a number, "
                f"got {_brief(upstream)}"
            )
        given = np.asarray(upstream, np.float64)
    wanted = loop if case.reduction == "none" else ()
    if given.shape not in (wanted, ()):
        raise ArgumentError(
            f"upstream has the shape {list(given.shape)}; it must have that of the result, "
            f"{list(wanted)}"
        )
    if case.reduction == "none":
        return case.with_(cotangent=np.broadcast_to(given, loop))
    wide = np.broadcast_to(np.zeros((), given.dtype), loop)
    return case.with_(cotangent=wide, scale=float(given))


def _brief(given: Any) -> str:
    return one_line(repr(given))[:80]
