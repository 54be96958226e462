"""Drawing a case from a spec."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np

from lossspec.cases.axes import axes_of
from lossspec.cases.case import LAYOUTS, Case, settle_tensors
from lossspec.cases.ignored import ignored_rows
from lossspec.cases.settled import check_settled
from lossspec.cases.values import STYLES, cast_values, dense_values, integer_values
from lossspec.dtypes import dtype_name, precision
from lossspec.errors import SpecError, blaming
from lossspec.spec.constrained import Constrained, Label, Mask, Rank
from lossspec.spec.loss import Form, Loss
from lossspec.spec.roles import ClassIndex, Distribution, Factor, Length, Role
from lossspec.spec.shapes import Shape, written_out

T = TypeVar("T")


#: How the sizes of the axes are drawn; a repeated word is drawn more often, here and below.
_KINDS = (
    *(["small"] * 3 + ["distinct"] * 2 + ["square"] * 2),
    *("empty", "ones", "column", "rows", "wide"),
)
#: The same for a sample with several axes. `crossed` repeats two sizes, so that a wrong axis fits.
_KINDS_OF_MANY_AXES = ("small", "square", "distinct", "crossed", "even", "empty")
#: Numbers of rows a little above a power of two, so that the last block of a kernel is partial.
_ROWS = (67, 257, 1025, 4099)
_SOME_ROWS = (5, 9, 17, 33, 65, 131)
#: The batches of coupled rows: the oracle solves all rows once for each row.
_COUPLED_ROWS = (5, 9)
#: A number of features or classes that an int8 cannot hold.
_WIDE = 131
#: A number of classes that a uint8 can just hold.
_BYTE = 256
_TIES = ("none", "none", "some", "all", "threshold", "near")
#: The sizes of numbers that are near each other, as pixels, prices or temperatures are.
_OFFSETS = (1.0, 300.0, 20_000.0)
_UNLIMITED = (-np.inf, np.inf)
_IGNORED = ("none", "some", "some", "leading", "all")
_FILLS = ("plain", "plain", "nan", "inf", "-inf", "large")


_EITHER = (False, True)
_OFTEN = (False, True, True)
_THIRD = (True, False, False)
_SELDOM = (False, False, False, False, False, True)


class Choices(Protocol):
    """The source of the choices of a case, called as `choose("layout of input", LAYOUTS)`."""

    def __call__(self, what: str, options: Sequence[T]) -> T:
        """Return one of the options.

        Args:
            what: The name of the choice.
            options: The options, the simplest first.
        """

    def seed(self) -> int:
        """Return the seed of the dense values."""


@dataclass
class _Draft:
    """The parts of a case that are drawn so far.

    Attributes:
        choose: The source of the choices.
        loss: The spec of the loss.
        form: The form of the call.
        contract: The shape contract as written in the spec.
        shape: The shape contract with every axis written out.
        plain: Whether the case is a default call on a large batch.
        besides: The one parameter or optional tensor that a default call on a large batch gives; ""
            for none.
        dtype: The dtype of the real tensors.
        sizes: The size of each axis by name.
        parameters: The values of the parameters by name.
        reduction: The reduction of the call.
        rng: The generator of the dense values.
        tensors: The arrays by name.
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
        """Return whether the case must leave this parameter or tensor at its default."""
        return self.plain and name != self.besides


def drawn(choose: Choices, loss: Loss, dtypes: tuple[str, ...] | None = None) -> Case:
    """Return a valid call of a loss.

    Args:
        choose: The source of all choices, and of the seed of the dense values.
        loss: The spec of the loss.
        dtypes: The dtypes to choose from; those of the spec by default.
    """
    draft = _begun(choose, loss, dtypes)
    _draw_tensors(draft)
    form, shape, tensors = draft.form, draft.shape, draft.tensors
    _tie(choose, draft.rng, form, shape, tensors, draft.parameters)
    if form.settle is not None:  # after `_tie`, which can make the difference of two vectors small
        settle_tensors(loss, form, shape, draft.rng, tensors, draft.parameters)
        check_settled(loss, form, shape, draft.sizes, tensors, draft.parameters)
    _mask_classes(draft)
    _fill_ignored(choose, form, shape, tensors, draft.parameters)
    _draw_options(draft)
    case = _finished(draft)
    _check_rules(loss, case)
    return case


def _check_rules(loss: Loss, case: Case) -> None:
    """Raise SpecError for a drawn call that breaks a rule of the spec."""
    refusal = case.broken_rule(loss)
    if refusal is None:
        return
    given = [f"{name} of shape {list(x.shape)}" for name, x in case.tensors.items()]
    given += [f"{name}={value!r}" for name, value in case.parameters.items()]
    raise SpecError(
        f"spec {loss.name!r}: the rule of the refusal {refusal.says!r} is broken by a call that "
        f"the spec draws, with {', '.join(given)}; a drawn call must follow it, so restrict the "
        "roles, sizes or parameters, or make settle change the call"
    )


def _begun(choose: Choices, loss: Loss, dtypes: tuple[str, ...] | None) -> _Draft:
    """Choose the form, the shape, the dtype, the parameters and the reduction."""
    form = choose("form", loss.forms)
    known = loss.parameters_of(form)
    # Fused kernels often special-case a large batch with at most one non-default argument.
    plain = choose("plain", _SELDOM)
    besides = choose(f"plain but for, {form.name}", ("", *known, *loss.options)) if plain else None
    # Contracts with further axes have many shapes; so has `*` of two axes, which may be square.
    further = [c for c in form.contracts if any("d*" in axes for axes in c.inputs)]
    contracts = (form.contracts[0], *form.contracts, *further)
    contract = form.contracts[0] if plain else choose(f"contract of {form.name}", contracts)
    several = (2, 2, 4) if loss.options and len(contract.spreads) > 3 else ()
    spreads = (*contract.spreads, *several)
    shape = written_out(contract.text, choose("spread", spreads))
    sizes = _axis_sizes(choose, loss, form, shape, plain)
    dtype = choose("dtype", dtypes or loss.dtypes)
    # Fused kernels often serve the defaults only, and leave other values to plain code.
    default = plain or (bool(known) and choose("default parameters", _THIRD))
    parameters = {
        name: parameter.values[0] if default and name != besides else choose(name, parameter.values)
        for name, parameter in known.items()
    }
    _restrict_sizes(choose, loss, form, shape, sizes, parameters)
    # A single number is no batch, whose size `batchmean` divides by.
    reductions = [r for r in loss.reductions[::-1] if r != "batchmean" or shape.inputs[0]]
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
        reduction=choose("reduction", reductions),
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
    """Set the size of each axis that the spec restricts, in place."""
    counted = loss.counted_by(form, parameters)
    sizes.update({axis: size for axis, size in counted.items() if axis in sizes})
    for axis, rule in form.sizes.items():
        if callable(rule):
            with blaming(loss.name, f"sizes[{axis!r}]", sizes=sizes):
                sizes[axis] = rule(sizes, parameters)
        elif any(axis in axes for axes in shape.inputs):
            # A loss that compares all pairs of classes needs memory for their square in each row.
            many = any(size >= _ROWS[1] for other, size in sizes.items() if other != axis)
            few = [n for n in rule if n <= 8 or not many]
            sizes[axis] = choose(f"size of {axis}", few or [min(rule)])
    sizes.update(shape.with_tied(sizes))


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
        elif isinstance(role, Constrained):
            draft.tensors[name] = _constrained(draft, name, role, dims, role.axis(axes))
        else:
            class_axis = next((i for i, a in enumerate(axes) if a in draft.shape.core), None)
            draft.tensors[name] = _dense(draft, name, role, dims, class_axis)


def _draw_options(draft: _Draft) -> None:
    """Choose the optional tensors of the call, and draw their values."""
    for name, role in draft.loss.options.items():
        if draft.plain:
            given = not draft.default(name)
        elif _square(draft):
            given = draft.choose(f"with {name} (square)", _OFTEN)
        else:
            given = draft.choose(f"with {name}", _EITHER)
        if given:
            dims = _option_shape(draft, name)
            if isinstance(role, Constrained):
                axes = axes_of(draft.loss, draft.form, draft.shape, name, len(dims))
                made = _constrained(draft, name, role, dims, role.axis(axes))
            else:
                made = _dense(draft, name, role, dims, None)
            draft.tensors[name] = made


def _square(draft: _Draft) -> bool:
    """Return whether two axes of the first tensor have the same size, so that a wrong one fits."""
    sizes = [size for size in next(iter(draft.tensors.values())).shape if size > 1]
    return len(set(sizes)) < len(sizes)


def _dense(
    draft: _Draft, name: str, role: Role, dims: tuple[int, ...], class_axis: int | None
) -> np.ndarray:
    """Draw the values of a tensor in one of the styles of its role."""
    if name in draft.loss.options and _square(draft):  # equal numbers hide a wrong axis
        unequal = tuple(style for style in STYLES[role.style] if style != "ones")
        style = draft.choose(f"style of {name} (square)", unequal)
    else:
        style = _style(draft.choose, name, role, dims)
    if style == "huge" and (draft.shape.core or draft.dtype == "float16"):
        style = "wide"  # norms and other sums of powers would overflow, in float16 all squares
    return cast_values(
        dense_values(draft.rng, role.style, style, dims, class_axis), role, draft.dtype
    )


def _constrained(
    draft: _Draft, name: str, role: Constrained, dims: tuple[int, ...], axis: int | None
) -> np.ndarray:
    """Draw the values of a tensor whose role restricts several of its numbers together."""
    if not isinstance(role, Mask | Label | Rank):
        return role.restored(_dense(draft, name, role, dims, axis), axis)
    style = _style(draft.choose, name, role, dims)
    made = role.restored(integer_values(draft.rng, role, style, dims), axis)
    return made.astype(draft.choose(f"dtype of {name}", role.dtypes))


def _finished(draft: _Draft) -> Case:
    """Choose memory layouts, gradients and arguments to leave out."""
    choose, form, shape, tensors = draft.choose, draft.form, draft.shape, draft.tensors
    roles = draft.loss.roles(form)
    layouts = {} if draft.plain else _lay_out(draft, roles)
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


def _lay_out(draft: _Draft, roles: Mapping[str, Role]) -> dict[str, str]:
    """Choose the layout of each tensor that is not contiguous; repeat the values of expanded ones.

    Args:
        draft: The case so far; its tensors that become expanded are replaced.
        roles: The roles of the tensors by name.
    """
    choose, form, shape, tensors = draft.choose, draft.form, draft.shape, draft.tensors
    # Rows that are all equal leave no digits to a loss that compares them.
    settled = form.settle is not None or draft.loss.whole_batch(shape)
    laid = choose("layouts", ("none", "each", "one", "each"))
    if laid == "none":
        return {}
    axes = {n: axes_of(draft.loss, form, shape, n, array.ndim) for n, array in tensors.items()}
    layouts = {}
    # Repeating an ignored index would ignore rows that hold any number, where none may.
    marked = [n for n, role in roles.items() if isinstance(role, ClassIndex) and role.ignored_by]
    for name in list(tensors) if laid == "each" else [choose("laid out", list(tensors))]:
        array = tensors[name]
        layout = choose(f"layout of {name}", _layouts(array.ndim))
        # Repeating values would undo `settle`; many equal terms, added serially, exceed the budget.
        repeatable = not settled and (not array.ndim or len(array) < _WIDE)
        repeatable &= form.skips_ignored or name not in marked
        repeatable &= _may_repeat(roles[name], array, axes[name])
        if layout == "expanded" and repeatable:
            tensors[name] = _repeated(array)
            if isinstance(roles[name], Distribution) and set(axes[name][:1]) & set(shape.core):
                tensors[name] = np.full_like(array, 1 / max(len(array), 1))
        elif layout == "expanded" or roles[name].scalar:
            layout = "contiguous"
        if layout != "contiguous":
            layouts[name] = layout
    return layouts


def _may_repeat(role: Role, array: np.ndarray, axes: tuple[str, ...]) -> bool:
    """Return whether a role allows a tensor that repeats its first slice."""
    if not isinstance(role, Constrained):
        return True
    return bool(role.holds(_repeated(array), role.axis(axes)).all())


def _layouts(ndim: int) -> Sequence[str]:
    """Return the layouts that a tensor with this number of axes can have.

    `channels_last` is repeated, since few tensors can have it.
    """
    return (*LAYOUTS, *LAYOUTS[-1:] * 3) if ndim in (4, 5) else LAYOUTS[:-1]


def _cotangent(choose: Choices, rng: np.random.Generator, loop: tuple[int, ...]) -> Any:
    """Draw the cotangent of an unreduced result: varied, with a 0 at the front, or constant."""
    cotangent = rng.choice([-1.5, -0.25, 0.5, 1.0, 3.0], loop) * rng.uniform(0.5, 1, loop)
    kind = choose("cotangent", ("varied", "zero in front", "even", "zero in front"))
    if cotangent.size > 1 and kind == "zero in front":
        cotangent.flat[0] = 0  # shows a kernel that uses the first cotangent for all rows
    elif cotangent.size > 1 and kind == "even":
        cotangent[...] = cotangent.flat[0]
    return cotangent


def _style(choose: Choices, name: str, role: Role, dims: tuple[int, ...]) -> str:
    style = choose(f"style of {name}", STYLES[role.style])
    # Many nearly equal terms, added serially, exceed the budget.
    equal = style == "tiny" or isinstance(role, Factor)  # offset factors have nearly equal products
    drifts = equal and max(dims, default=0) >= _WIDE and "normal" in STYLES[role.style]
    return "normal" if drifts else style


def _axis_sizes(
    choose: Choices, loss: Loss, form: Form, shape: Shape, plain: bool
) -> dict[str, int]:
    """Draw a size for each axis, including the axis `1`."""
    axes = list(
        dict.fromkeys(
            axis
            for axes in (*shape.inputs, shape.result)
            for axis in axes
            if axis not in shape.fixed and axis not in shape.tied
        )
    )
    core = [axis for axis in axes if axis in shape.core]
    loop = [axis for axis in axes if axis not in core]
    if not axes:
        sizes: dict[str, int] = {}
    elif plain and loop:  # a number of rows that makes the last block partial
        sizes = {axis: choose(f"plain size of {axis}", (3, 5, 2)) for axis in axes}
        along, coupled = _long_axis(loss, shape, loop)
        sizes[along] = choose("plain rows", _COUPLED_ROWS if coupled else _SOME_ROWS)
    else:
        kind = choose(*_kinds(loss, shape, core, loop))
        if kind == "rows" and loop:
            squared = loop[0] in shape.tied.values()
            sizes = _many_rows(choose, axes, loop, *_long_axis(loss, shape, loop), squared)
        elif kind == "wide" and core and len(loop) < 2:  # with more axes, kernels add serially
            sizes = dict.fromkeys(axes, choose("breadth", (5, 2)))
            axis = choose("wide axis", core)
            classes = (*dict.fromkeys((_WIDE, form.widest)), _BYTE, _BYTE)
            widths = classes if axis == loss.classes else (_WIDE,)
            sizes[axis] = choose(f"width of {axis}", widths)
        else:
            sizes = _few(choose, kind, axes, loop, _of_layers(form, shape))
    return shape.with_tied(shape.fixed | sizes)


def _kinds(
    loss: Loss, shape: Shape, core: Sequence[str], loop: Sequence[str]
) -> tuple[str, Sequence[str]]:
    """Return the name of the choice of a kind of sizes, and the kinds.

    Args:
        loss: The spec of the loss.
        shape: The shape contract, with every axis written out.
        core: The names of the axes that the result lacks.
        loop: The names of the axes of the result.
    """
    count = len(core) + len(loop)
    if core and shape.spread > 1:
        wide = ("wide",) if len(loop) < 2 else ()
        return f"sizes ({count} axes)", _KINDS_OF_MANY_AXES + wide
    if loss.options and count > 1:  # an option along a wrong axis fits a square call
        return "sizes (with options)", (*_KINDS, *["square"] * 3)
    return "sizes", _KINDS


def _long_axis(loss: Loss, shape: Shape, loop: list[str]) -> tuple[str, bool]:
    """Return the axis that is long in a large batch, and whether its rows are coupled."""
    coupled = loss.coupled_axis(shape)
    return coupled or loop[0], bool(coupled)


def _many_rows(
    choose: Choices, axes: list[str], loop: list[str], along: str, coupled: bool, squared: bool
) -> dict[str, int]:
    """Draw the sizes of a large batch of small samples.

    Args:
        choose: The source of the choices.
        axes: The names of all axes.
        loop: The names of the axes of the result.
        along: The axis that is long.
        coupled: Whether the rows along it are coupled.
        squared: Whether a tensor has the square of the rows.
    """
    sizes = dict.fromkeys(axes, 2)
    sizes |= dict.fromkeys(loop, 1)
    sizes[loop[-1]] = choose("columns", (1, 2))
    rows = _ROWS[:1] if squared else _ROWS
    sizes[along] = choose("rows", _COUPLED_ROWS if coupled else rows)
    return sizes


def _of_layers(form: Form, shape: Shape) -> set[str]:
    """Return the axes of the tensors that a class keeps, such as the weight of a layer."""
    tensors = zip(form.tensors.values(), shape.inputs, strict=True)
    return {axis for role, axes in tensors if role.state for axis in axes}


def _few(
    choose: Choices, kind: str, axes: list[str], loop: list[str], filled: Collection[str]
) -> dict[str, int]:
    """Draw sizes below ten: equal, different, in pairs, with a short axis, or independent.

    Args:
        choose: The source of the choices.
        kind: The kind of sizes.
        axes: The names of all axes.
        loop: The names of the axes of the result.
        filled: The axes that are not empty: torch warns of a layer without numbers.
    """
    if kind in ("crossed", "even"):  # further axes cross those before them, or equal each other
        pair = choose(kind, ((2, 3), (3, 2), (4, 3)))
        sizes = dict(zip(axes, pair * len(axes), strict=False))
        same = dict.fromkeys(axes[2:], pair[1] + 2)
        return sizes | same if kind == "even" else sizes
    if kind == "ones":
        return dict.fromkeys(axes, 1)
    if kind == "column":  # a result of shape (N, 1), as a regression returns it
        few = {axis: choose(f"size of {axis}", (3, 2, 5)) for axis in axes}
        return few | dict.fromkeys(loop[-1:], 1)
    if kind == "square":
        return dict.fromkeys(axes, choose("square", [2, 3, 4]))
    if kind == "distinct":
        order = [2, 3, 4, 5, 1, 7, 6, 8][: max(len(axes), 3)]
        first = choose("distinct", range(len(order)))
        return dict(zip(axes, order[first:] + order[:first], strict=False))
    pool = [2, 3, 1, 4, 5, 7] if len(axes) < 4 else [2, 1, 3]
    sizes = {axis: choose(f"size of {axis}", pool) for axis in axes}
    may_be_empty = [axis for axis in loop if axis not in filled]
    if kind == "empty" and may_be_empty:
        sizes[choose("empty", may_be_empty)] = 0
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
    """Draw class indices, with none, some, the leading ones or all of them ignored.

    Args:
        choose: The source of the choices.
        rng: The generator of the values.
        role: The role of the tensor.
        dims: The shape of the tensor.
        sizes: The size of each axis by name.
        parameters: The values of the parameters by name.
        kind: The indices to ignore, one of `_IGNORED`; chosen if None.

    Returns:
        The parameters, with the value that marks ignored indices set to 255 if the tensor is uint8
        and cannot hold it; and the tensor.
    """
    target = rng.integers(0, sizes[role.classes], dims)
    if target.size and sizes[role.classes] >= _WIDE:
        target.flat[-1] = sizes[role.classes] - 1  # random draws seldom contain the last class
    # Draw the documented dtypes most often.
    if _WIDE <= sizes[role.classes] <= _BYTE and role.tolerated:
        dtype = choose("index dtype (byte)", role.dtypes[:1] + role.tolerated * 2)
    else:
        dtype = choose("index dtype", role.dtypes * 6 + role.tolerated)
    if sizes[role.classes] - 1 > np.iinfo(dtype).max:
        dtype = role.dtypes[0]
    if role.ignored_by is None:
        return parameters, target.astype(dtype)
    kind = kind or choose("ignored", _IGNORED)
    sentinel = parameters[role.ignored_by]
    if dtype == "uint8" and sizes[role.classes] >= _WIDE and sentinel < 0:
        kind = "none"  # so that the mark keeps its value
    if dtype == "uint8" and not 0 <= sentinel <= 255:
        if kind == "none":
            # Many losses that are right for documented dtypes compare a uint8 with the sentinel in
            # uint8, and ignore the class that it is there.
            wrapped = sentinel % 256
            target = np.where(target == wrapped, wrapped - 1 if wrapped else 1, target)
            return parameters, target.astype(dtype)
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
    """Draw lengths: all full, full or one less, or any length from 0."""
    shortest = choose("shortest", (size, max(size - 1, 0), 0))
    return rng.integers(shortest, size + 1, dims).astype(choose("length dtype", role.dtypes))


def _tie(
    choose: Choices,
    rng: np.random.Generator,
    form: Form,
    shape: Shape,
    tensors: dict[str, np.ndarray],
    parameters: Mapping[str, Any],
) -> None:
    """Make elements of the tensors of one role equal, or move them to a threshold, in place.

    At a threshold, two elements differ by the value of a parameter, up to one ulp more or less.
    Near each other, they differ by one ulp up to a thousandth of their size.

    Args:
        choose: The source of the choices.
        rng: The generator of the values.
        form: The form of the call.
        shape: The shape contract, with every axis written out.
        tensors: The arrays by name.
        parameters: The values of the parameters by name.
    """
    names = list(form.tensors)
    first = names[0]
    twins = [
        name
        for name in names[1:]
        if form.tensors[name].style == form.tensors[first].style
        and tensors[name].shape == tensors[first].shape
        and not form.tensors[name].integer
    ]
    for name in twins:
        at, role = names.index(name), form.tensors[name]
        x, y = tensors[first], tensors[name]
        kind = choose(f"ties of {name}", _TIES)
        if kind == "none":
            continue
        if kind == "near":
            _bring_near(rng, form, shape, tensors, twins)
            return
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
            usable = np.isfinite(met) & (met >= role.low) & (met <= role.high)
        chosen = usable & ((rng.random(x.shape) < 0.5) | (kind == "all"))
        tensors[name] = np.where(chosen, met, y).astype(y.dtype)
        if isinstance(role, Constrained):
            tensors[name] = role.restored(tensors[name], role.axis(shape.inputs[at]))


def _bring_near(
    rng: np.random.Generator,
    form: Form,
    shape: Shape,
    tensors: dict[str, np.ndarray],
    names: Sequence[str],
) -> None:
    """Bring tensors near the first one, in place, with a common offset if their roles allow it.

    The differences keep their digits, but differences of squares do not.

    Args:
        rng: The generator of the values.
        form: The form of the call.
        shape: The shape contract, with every axis written out.
        tensors: The arrays by name.
        names: The names of the tensors.
    """
    first, places = next(iter(form.tensors)), list(form.tensors)
    free = [form.tensors[name] for name in (first, *names)]
    x = tensors[first]
    limited = [isinstance(r, Constrained | Factor) or (r.low, r.high) != _UNLIMITED for r in free]
    if not any(limited):
        offset = rng.choice(_OFFSETS) * (1 + rng.standard_normal(x.shape) / 100)
        tensors[first] = x = np.asarray(offset).astype(x.dtype)
    numbers, ulp = x.astype(np.float64), 2 * precision(dtype_name(x)).unit
    for name in names:
        role = form.tensors[name]
        apart = np.exp(rng.uniform(np.log(ulp), np.log(max(1e-3, 4 * ulp)), x.shape))
        with np.errstate(all="ignore"):
            near = numbers * (1 + rng.choice([-1.0, 1.0], x.shape) * apart)
            near = np.asarray(near).astype(x.dtype)
        usable = np.isfinite(near) & (near >= role.low) & (near <= role.high)
        tensors[name] = np.where(usable, near, tensors[name]).astype(x.dtype)
        if isinstance(role, Constrained):
            axis = role.axis(shape.inputs[places.index(name)])
            tensors[name] = role.restored(tensors[name], axis)


def _mask_classes(draft: _Draft) -> None:
    """Give some classes other than the target the score -inf, as decoders do, in place."""
    choose, rng = draft.choose, draft.rng
    if not _may_be_impossible(draft.loss, draft.form, draft.parameters):
        return
    if choose("masked", ("no", "no", "no", "no", "some")) == "no":
        return
    _make_impossible(draft.form, draft.shape, draft.tensors, lambda shape: rng.random(shape) < 0.4)


def _indices(form: Form) -> list[str]:
    """Return the tensors of class indices whose losses allow a score of -inf for other classes."""
    (_, role), *others = form.tensors.items()
    return [
        name
        for name, other in others
        if isinstance(other, ClassIndex) and (other.one_hot or role.style == "log_probability")
    ]


def _may_be_impossible(loss: Loss, form: Form, parameters: Mapping[str, Any]) -> bool:
    """Return whether a class that is not the target may have the score -inf."""
    role = next(iter(form.tensors.values()))
    scores = role.style in ("logit", "log_probability") and role.through is None
    known = loss.parameters_of(form)
    smoothed = any(known[name].smooths and parameters[name] for name in known)
    return scores and len(_indices(form)) == 1 and not smoothed


def _make_impossible(
    form: Form,
    shape: Shape,
    tensors: dict[str, np.ndarray],
    chosen: Callable[[tuple[int, ...]], np.ndarray],
) -> None:
    """Give the chosen classes other than the target the score -inf, in place."""
    first, target = next(iter(form.tensors)), tensors[_indices(form)[0]]
    axis = next(i for i, name in enumerate(shape.inputs[0]) if name in shape.core)
    x = np.moveaxis(tensors[first].copy(), axis, -1)
    wanted = np.arange(x.shape[-1]) == target[..., None]
    x[chosen(x.shape) & ~wanted & wanted.any(-1, keepdims=True)] = -np.inf
    tensors[first] = np.moveaxis(x, -1, axis)


def with_impossible(
    loss: Loss, case: Case, chosen: Callable[[tuple[int, ...]], np.ndarray]
) -> Case | None:
    """Return a case in which some classes other than the target have the score -inf.

    Args:
        loss: The spec of the loss.
        case: The case.
        chosen: Returns a mask of the classes, from the shape of the scores with the classes last.

    Returns:
        The case, or None if the loss does not allow such scores.
    """
    form = loss.form(case.form)
    if not _may_be_impossible(loss, form, case.parameters):
        return None
    tensors = dict(case.tensors)
    _make_impossible(form, case.shape, tensors, chosen)
    return case.with_(tensors=tensors)


def _fill_ignored(
    choose: Choices,
    form: Form,
    shape: Shape,
    tensors: dict[str, np.ndarray],
    parameters: Mapping[str, Any],
) -> None:
    """Fill the ignored rows with nan, infinity or a large number, in place.

    If the form leaves open what such numbers do, fill them with ordinary numbers.

    Args:
        choose: The source of the choices.
        form: The form of the call.
        shape: The shape contract, with every axis written out.
        tensors: The arrays by name; the first one is filled.
        parameters: The values of the parameters by name.
    """
    for mask in ignored_rows(form, shape, tensors, parameters):
        first, role = next(iter(form.tensors.items()))
        if not form.skips_ignored:
            ordinary = np.clip(0.5, role.low, role.high)
            x = tensors[first]
            tensors[first] = np.where(mask, np.asarray(ordinary).astype(x.dtype), x)
            continue
        fill = choose("filled", _FILLS)
        # The gradient of a layer's weight sums over all rows, where 0 times infinity is nan.
        if fill == "plain" or any(role.state for role in form.tensors.values()):
            continue
        x = tensors[first]
        value = precision_limit(x) / 2 if fill == "large" else float(fill)
        tensors[first] = np.where(mask, np.asarray(value).astype(x.dtype), x)


def precision_limit(array: np.ndarray) -> float:
    """Return the largest finite number of an array's dtype."""
    return precision(dtype_name(array)).largest


def _option_shape(draft: _Draft, name: str) -> tuple[int, ...]:
    """Choose one of the shapes that an optional tensor may have."""
    choose = draft.choose
    declared = draft.loss.options[name].shape or ""
    if declared.startswith("("):
        return tuple(draft.sizes[axis] for axis in draft.shape.axes(declared))
    like = draft.tensors[declared.rsplit(" ", 1)[-1]].shape
    if declared.startswith("like") or not like:
        return like
    shapes = [like, like[-1:], like[1:], (1,), ()]
    if like[-1] > 1 and like[-1] in like[:-1]:  # broadcasting along the wrong axis would also work
        kept = choose(f"shape of {name} (square)", [like, like[-1:], like[1:], like[-1:]])
    else:
        kept = choose(f"shape of {name}", shapes)
    if kept == like and choose(f"one axis of {name}", _EITHER):
        axis = choose(f"axis of {name}", range(len(like)))
        kept = (*like[:axis], 1, *like[axis + 1 :])
    return kept


def _repeated(array: np.ndarray) -> np.ndarray:
    """Return an array of the same shape that repeats the first slice."""
    if array.ndim == 0 or 0 in array.shape:
        return array
    return np.broadcast_to(array[:1], array.shape).copy()
