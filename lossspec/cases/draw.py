"""Draw a case from a spec."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np

from lossspec.cases.case import LAYOUTS, Case, settle_tensors
from lossspec.cases.ignored import ignored_rows
from lossspec.cases.values import STYLES, cast_values, dense_values
from lossspec.dtypes import dtype_name, precision
from lossspec.errors import blaming
from lossspec.spec.loss import Form, Loss
from lossspec.spec.roles import ClassIndex, Distribution, Factor, Length, Role
from lossspec.spec.shapes import Shape, written_out

T = TypeVar("T")


_KINDS = (
    *(["small"] * 3 + ["distinct"] * 2 + ["square"] * 2 + ["empty"] * 2),
    *("ones", "rows", "wide"),
)
#: More than whole blocks of them, by one or a few.
_ROWS = (67, 257, 1025, 4099)
_SOME_ROWS = (5, 9, 17, 33, 65, 131)
#: More features or classes than a byte counts.
_WIDE = 131
_TIES = ("none", "none", "some", "all", "threshold")
_IGNORED = ("none", "some", "some", "leading", "all")
_FILLS = ("plain", "plain", "nan", "inf", "-inf", "large")


_EITHER = (False, True)
_SELDOM = (False, False, False, False, False, True)


class Choices(Protocol):
    """Where the structure of a case comes from: `choose("layout of input", LAYOUTS)`."""

    def __call__(self, what: str, options: Sequence[T]) -> T:
        """One of the options, the first being the simplest."""

    def seed(self) -> int:
        """What dense values are made from."""


@dataclass
class _Draft:
    """A case in the making: what is known of it so far.

    plain : whether it is a default call on a large batch; besides : the one parameter or optional
    tensor that is not default there.
    """

    choose: Choices
    loss: Loss
    form: Form
    contract: Shape
    shape: Shape
    plain: bool
    besides: str | None
    dtype: str
    sizes: dict[str, int]
    parameters: dict[str, Any]
    reduction: str
    rng: np.random.Generator
    tensors: dict[str, np.ndarray] = field(default_factory=dict)

    def default(self, name: str | None) -> bool:
        """Whether a default call leaves this parameter or tensor as it is."""
        return self.plain and name != self.besides


def drawn(choose: Choices, loss: Loss, dtypes: tuple[str, ...] | None = None) -> Case:
    """A valid call of a loss: structure from `choose`, dense values in bulk from a seed."""
    draft = _begun(choose, loss, dtypes)
    _draw_tensors(draft)
    form, shape, tensors = draft.form, draft.shape, draft.tensors
    _tie(choose, draft.rng, form, tensors, draft.parameters)
    if form.settle is not None:  # after ties, which make vectors short that were not
        settle_tensors(loss, form, shape, draft.rng, tensors, draft.parameters)
    _mask_classes(draft)
    _fill_ignored(choose, form, shape, tensors, draft.parameters)
    _draw_options(draft)
    return _finished(draft)


def _begun(choose: Choices, loss: Loss, dtypes: tuple[str, ...] | None) -> _Draft:
    """Choose the form, the shape, the dtype, the parameters and the reduction."""
    form = choose("form", loss.forms)
    known = loss.parameters_of(form)
    # Fused kernels are made for default calls on a large batch with at most one other argument.
    plain = choose("plain", _SELDOM)
    besides = choose(f"plain but for, {form.name}", ("", *known, *loss.options)) if plain else None
    contract = form.contracts[0] if plain else choose(f"contract of {form.name}", form.contracts)
    shape = written_out(contract.text, choose("spread", contract.spreads))
    sizes = _axis_sizes(choose, loss, form, shape, plain)
    dtype = choose("dtype", dtypes or loss.dtypes)
    parameters = {
        name: parameter.values[0] if plain and name != besides else choose(name, parameter.values)
        for name, parameter in known.items()
    }
    _restrict_sizes(choose, loss, form, shape, sizes, parameters)
    return _Draft(
        choose=choose,
        loss=loss,
        form=form,
        contract=contract,
        shape=shape,
        plain=plain,
        besides=besides,
        dtype=dtype,
        sizes=sizes,
        parameters=parameters,
        reduction=choose("reduction", loss.reductions[::-1]),
        rng=np.random.default_rng(choose.seed()),
    )


def _restrict_sizes(
    choose: Choices,
    loss: Loss,
    form: Form,
    shape: Shape,
    sizes: dict[str, int],
    parameters: Mapping[str, Any],
) -> None:
    """Give the axes that not every size suits a size that does."""
    for axis, rule in form.sizes.items():
        if callable(rule):
            with blaming(loss.name, f"sizes[{axis!r}]", sizes=sizes):
                sizes[axis] = rule(sizes, parameters)
        elif any(axis in axes for axes in shape.inputs):
            # A loss that compares every pair of classes needs their number squared for each row.
            many = any(size >= _ROWS[1] for other, size in sizes.items() if other != axis)
            few = [n for n in rule if n <= 8 or not many]
            sizes[axis] = choose(f"size of {axis}", few or [min(rule)])


def _draw_tensors(draft: _Draft) -> None:
    """Draw the tensors of the form."""
    choose, rng, form, sizes = draft.choose, draft.rng, draft.form, draft.sizes
    for (name, role), axes in zip(form.tensors.items(), draft.shape.inputs, strict=True):
        dims = tuple(sizes[axis] for axis in axes)
        if isinstance(role, ClassIndex):
            ignored = "none" if draft.default(role.ignored_by) else None
            draft.parameters, draft.tensors[name] = _class_indices(
                choose, rng, role, dims, sizes, draft.parameters, ignored
            )
        elif isinstance(role, Length):
            draft.tensors[name] = _lengths(choose, rng, role, dims, sizes[role.of])
        else:
            class_axis = next((i for i, a in enumerate(axes) if a in draft.shape.core), None)
            draft.tensors[name] = _dense(draft, name, role, dims, class_axis)


def _draw_options(draft: _Draft) -> None:
    """Draw the optional tensors that the call has."""
    for name, role in draft.loss.options.items():
        given = not draft.default(name) if draft.plain else draft.choose(f"with {name}", _EITHER)
        if given:
            dims = _option_shape(draft, name)
            draft.tensors[name] = _dense(draft, name, role, dims, None)


def _dense(
    draft: _Draft, name: str, role: Role, dims: tuple[int, ...], class_axis: int | None
) -> np.ndarray:
    """Values of one of the styles of a role."""
    style = _style(draft.choose, name, role, dims)
    return cast_values(
        dense_values(draft.rng, role.style, style, dims, class_axis), role, draft.dtype
    )


def _finished(draft: _Draft) -> Case:
    """Choose memory layouts, gradients and arguments to leave out."""
    choose, form, shape, tensors = draft.choose, draft.form, draft.shape, draft.tensors
    roles = draft.loss.roles(form)
    layouts = {} if draft.plain else _lay_out(choose, form, shape, roles, tensors)
    wanted = [n for n in tensors if roles[n].differentiable and not roles[n].scalar]
    requires = choose(
        "requires_grad", [tuple(wanted), tuple(wanted[:1]), tuple(wanted), tuple(wanted[1:]), ()]
    )
    cotangent = _cotangent(choose, draft.rng, tuple(draft.sizes[axis] for axis in shape.result))
    omitted = frozenset(
        name
        for name, parameter in draft.loss.parameters_of(form).items()
        if draft.parameters[name] == parameter.default
        and (draft.plain or choose(f"{name} left out", _EITHER))
    )
    return Case(
        loss=draft.loss.name,
        form=form.name,
        contract=draft.contract.text,
        spread=shape.spread,
        dtype=draft.dtype,
        tensors=tensors,
        parameters=draft.parameters,
        reduction=draft.reduction,
        cotangent=np.asarray(cotangent).astype(precision(draft.dtype).numpy),
        scale=choose("scale", [1.0, 2.0, -0.5, 3.0]),
        omitted=omitted,
        layouts=layouts,
        requires_grad=requires,
    )


def _lay_out(
    choose: Choices,
    form: Form,
    shape: Shape,
    roles: Mapping[str, Role],
    tensors: dict[str, np.ndarray],
) -> dict[str, str]:
    """How tensors that are not contiguous lie in memory; expanded ones get the numbers for it."""
    laid = choose("layouts", ("none", "each", "one", "each"))
    if laid == "none":
        return {}
    first = {name: axes[:1] for name, axes in zip(form.tensors, shape.inputs, strict=True)}
    layouts = {}
    for name in list(tensors) if laid == "each" else [choose("laid out", list(tensors))]:
        array = tensors[name]
        layout = choose(f"layout of {name}", _layouts(array.ndim))
        # What is settled must stay so, and so many equal terms make a serial sum drift.
        repeatable = form.settle is None and (not array.ndim or len(array) < _WIDE)
        if layout == "expanded" and repeatable:
            tensors[name] = _repeated(array)
            if isinstance(roles[name], Distribution) and set(first[name]) & set(shape.core):
                tensors[name] = np.full_like(array, 1 / max(len(array), 1))
        elif layout == "expanded" or roles[name].scalar:
            layout = "contiguous"
        if layout != "contiguous":
            layouts[name] = layout
    return layouts


def _layouts(ndim: int) -> Sequence[str]:
    """Those that a tensor of so many axes can have; few tensors can have the last one."""
    return (*LAYOUTS, *LAYOUTS[-1:] * 3) if ndim in (4, 5) else LAYOUTS[:-1]


def _cotangent(choose: Choices, rng: np.random.Generator, loop: tuple[int, ...]) -> Any:
    """What comes back to an unreduced loss: of every size and sign, with a 0, or all the same."""
    cotangent = rng.choice([-1.5, -0.25, 0.5, 1.0, 3.0], loop) * rng.uniform(0.5, 1, loop)
    kind = choose("cotangent", ("varied", "zero in front", "even", "zero in front"))
    if cotangent.size > 1 and kind == "zero in front":
        cotangent.flat[0] = 0  # the row that a per-row bug reads for all of them
    elif cotangent.size > 1 and kind == "even":
        cotangent[...] = cotangent.flat[0]
    return cotangent


def _style(choose: Choices, name: str, role: Role, dims: tuple[int, ...]) -> str:
    style = choose(f"style of {name}", STYLES[role.style])
    # So many terms that are nearly equal make a serial sum drift beyond the budget.
    equal = style == "tiny" or isinstance(role, Factor)  # an offset hides how its factors differ
    drifts = equal and max(dims, default=0) >= _WIDE and "normal" in STYLES[role.style]
    return "normal" if drifts else style


def _axis_sizes(
    choose: Choices, loss: Loss, form: Form, shape: Shape, plain: bool
) -> dict[str, int]:
    """A size for each axis, those of `1` included."""
    axes = list(
        dict.fromkeys(a for axes in (*shape.inputs, shape.result) for a in axes if a != "1")
    )
    core = [axis for axis in axes if axis in shape.core]
    loop = [axis for axis in axes if axis not in core]
    if not axes:
        sizes: dict[str, int] = {}
    elif plain and loop:  # so many rows that the last block of them is a short one
        sizes = {axis: choose(f"plain size of {axis}", (3, 5, 2)) for axis in axes}
        sizes[loop[0]] = choose("plain rows", _SOME_ROWS)
    else:
        kind = choose("sizes", _KINDS)
        if kind == "rows" and loop:
            sizes = _many_rows(choose, axes, loop)
        elif kind == "wide" and core and len(loop) < 2:  # kernels add up one by one along more axes
            sizes = dict.fromkeys(axes, choose("breadth", (5, 2)))
            axis = choose("wide axis", core)
            widths = (_WIDE, form.widest) if axis == loss.classes else (_WIDE,)
            sizes[axis] = choose(f"width of {axis}", widths)
        else:
            sizes = _few(choose, kind, axes, loop)
    return {"1": 1} | sizes


def _many_rows(choose: Choices, axes: list[str], loop: list[str]) -> dict[str, int]:
    """Sizes of a large batch of small samples."""
    sizes = dict.fromkeys(axes, 2)
    sizes |= dict.fromkeys(loop, 1)
    sizes[loop[-1]] = choose("columns", (1, 2))
    sizes[loop[0]] = choose("rows", _ROWS)
    return sizes


def _few(choose: Choices, kind: str, axes: list[str], loop: list[str]) -> dict[str, int]:
    """Sizes below ten: all the same, all different, with an empty axis, or any."""
    if kind == "ones":
        return dict.fromkeys(axes, 1)
    if kind == "square":
        return dict.fromkeys(axes, choose("square", [2, 3, 4]))
    if kind == "distinct":
        order = [2, 3, 4, 5, 1, 7, 6, 8][: max(len(axes), 3)]
        first = choose("distinct", range(len(order)))
        return dict(zip(axes, order[first:] + order[:first], strict=False))
    pool = [2, 3, 1, 4, 5, 7] if len(axes) < 4 else [2, 1, 3]
    sizes = {axis: choose(f"size of {axis}", pool) for axis in axes}
    if kind == "empty" and loop:
        sizes[choose("empty", loop)] = 0
    return sizes


def _class_indices(
    choose: Choices,
    rng: np.random.Generator,
    role: ClassIndex,
    dims: tuple[int, ...],
    sizes: Mapping[str, int],
    parameters: dict[str, Any],
    kind: str | None,
) -> tuple[dict[str, Any], np.ndarray]:
    """Targets of every kind: any class, the sentinel nowhere, somewhere, in front, everywhere."""
    target = rng.integers(0, sizes[role.classes], dims)
    if target.size and sizes[role.classes] >= _WIDE:
        target.flat[-1] = sizes[role.classes] - 1  # among so many, chance seldom takes the last
    # Mostly the documented ones.
    dtype = choose("index dtype", role.dtypes * 6 + role.tolerated)
    if sizes[role.classes] > np.iinfo(dtype).max:
        dtype = role.dtypes[0]
    if role.ignored_by is None:
        return parameters, target.astype(dtype)
    kind = kind or choose("ignored", _IGNORED)
    sentinel = parameters[role.ignored_by]
    if dtype == "uint8" and not 0 <= sentinel <= 255:
        sentinel = 255
        parameters = {**parameters, role.ignored_by: sentinel}
    ignored = np.zeros(dims, bool)
    if kind == "all":
        ignored[...] = True
    elif kind == "leading" and dims:
        ignored[: max(1, dims[0] // 2)] = True
    elif kind == "some":
        ignored = rng.random(dims) < 0.4
    return parameters, np.where(ignored, sentinel, target).astype(dtype)


def _lengths(
    choose: Choices, rng: np.random.Generator, role: Length, dims: tuple[int, ...], size: int
) -> np.ndarray:
    """Whole, nearly whole, or of any length from 0."""
    shortest = choose("shortest", (size, max(size - 1, 0), 0))
    return rng.integers(shortest, size + 1, dims).astype(choose("length dtype", role.dtypes))


def _tie(
    choose: Choices,
    rng: np.random.Generator,
    form: Form,
    tensors: dict[str, np.ndarray],
    parameters: Mapping[str, Any],
) -> None:
    """Make tensors of one role meet: exactly, a parameter's value apart, or an ulp off that."""
    names = list(form.tensors)
    first = names[0]
    for name in names[1:]:
        x, y = tensors[first], tensors[name]
        if form.tensors[name].style != form.tensors[first].style or x.shape != y.shape:
            continue
        kind = choose(f"ties of {name}", _TIES)
        if kind == "none":
            continue
        step = np.zeros(x.shape)
        if kind == "threshold":
            apart = [v for v in parameters.values() if isinstance(v, float)] or [1.0]
            step = rng.choice([-1.0, 1.0], x.shape) * rng.choice(apart, x.shape)
        with np.errstate(all="ignore"):
            met = (x.astype(np.float64) + step).astype(x.dtype)
            if kind == "threshold":
                nudge = rng.integers(-1, 2, x.shape)
                ends = np.nextafter(met, (nudge * np.inf).astype(x.dtype))
                met = np.where(nudge == 0, met, ends)
            role = form.tensors[name]
            usable = np.isfinite(met) & (met >= role.low) & (met <= role.high)
        chosen = usable & ((rng.random(x.shape) < 0.5) | (kind == "all"))
        tensors[name] = np.where(chosen, met, y).astype(y.dtype)


def _mask_classes(draft: _Draft) -> None:
    """Rule out classes other than the target, as decoders do: of probability 0."""
    choose, rng, tensors = draft.choose, draft.rng, draft.tensors
    (first, role), *others = draft.form.tensors.items()
    indices = [
        name
        for name, other in others
        if isinstance(other, ClassIndex) and (other.one_hot or role.style == "log_probability")
    ]
    scores = role.style in ("logit", "log_probability") and role.through is None
    known = draft.loss.parameters_of(draft.form)
    smoothed = any(known[name].smooths and draft.parameters[name] for name in known)
    if not scores or len(indices) != 1 or smoothed:
        return
    if choose("masked", ("no", "no", "no", "no", "some")) == "no":
        return
    target = tensors[indices[0]]
    axis = next(i for i, name in enumerate(draft.shape.inputs[0]) if name in draft.shape.core)
    x = np.moveaxis(tensors[first].copy(), axis, -1)
    wanted = np.arange(x.shape[-1]) == target[..., None]
    x[(rng.random(x.shape) < 0.4) & ~wanted & wanted.any(-1, keepdims=True)] = -np.inf
    tensors[first] = np.moveaxis(x, -1, axis)


def _fill_ignored(
    choose: Choices,
    form: Form,
    shape: Shape,
    tensors: dict[str, np.ndarray],
    parameters: Mapping[str, Any],
) -> None:
    """What an ignored row holds must not matter: nan, infinity, large numbers."""
    for mask in ignored_rows(form, shape, tensors, parameters):
        fill = choose("filled", _FILLS)
        # A layer's weights meet every row, and 0 times infinity is no gradient.
        if fill == "plain" or any(role.state for role in form.tensors.values()):
            continue
        first = next(iter(form.tensors))
        x = tensors[first]
        value = precision_limit(x) / 2 if fill == "large" else float(fill)
        tensors[first] = np.where(mask, np.asarray(value).astype(x.dtype), x)


def precision_limit(array: np.ndarray) -> float:
    """The largest finite number of an array's dtype."""
    return precision(dtype_name(array)).largest


def _option_shape(draft: _Draft, name: str) -> tuple[int, ...]:
    """One of the shapes that an optional tensor may have."""
    choose = draft.choose
    declared = draft.loss.options[name].shape or ""
    if declared.startswith("("):
        return tuple(draft.sizes[axis] for axis in draft.shape.axes(declared))
    like = draft.tensors[declared.rsplit(" ", 1)[-1]].shape
    if declared.startswith("like") or not like:
        return like
    shapes = [like, like[-1:], like[1:], (1,), ()]
    if like[-1] > 1 and like[-1] in like[:-1]:  # in which a row is as long as a column
        shapes += [like[-1:]] * 4
    kept = choose(f"shape of {name}", shapes)
    if kept == like and choose(f"one axis of {name}", _EITHER):
        axis = choose(f"axis of {name}", range(len(like)))
        kept = (*like[:axis], 1, *like[axis + 1 :])
    return kept


def _repeated(array: np.ndarray) -> np.ndarray:
    """The values of an expanded tensor: the first slice, again and again."""
    if array.ndim == 0 or 0 in array.shape:
        return array
    return np.broadcast_to(array[:1], array.shape).copy()
