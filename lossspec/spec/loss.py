"""The specification of a loss: forms, definition, refusals, symmetries and examples."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from inspect import signature
from typing import Any, Literal, get_args

import numpy as np

from lossspec.dtypes import REAL_DTYPES
from lossspec.errors import SpecError, blaming
from lossspec.spec.constrained import SIDES_OF_A_BOX, Box, Constrained
from lossspec.spec.mean import Mean
from lossspec.spec.parameters import Parameter
from lossspec.spec.refusals import Refusal as Refusal
from lossspec.spec.roles import ClassIndex, Distribution, Role, Surface
from lossspec.spec.shapes import Shape, root

#: A function whose arguments are tensors and parameters by name.
Definition = Callable[..., Any]
#: A function of the sizes of the other axes and of the parameters, both by name.
SizeRule = Callable[[Mapping[str, int], Mapping[str, Any]], int]
#: How the rows of a batch relate. The loss of an independent row depends on that row only. That of
#: a coupled row depends on the whole batch, and that of an ordered row also on the order of rows.
Rows = Literal["independent", "coupled", "ordered"]


class Key(str):
    """The key under which a dict of results holds a loss, as in `results={"mean": Key("loss")}`."""


class AnySize(tuple[int, ...]):
    """The sizes to draw for an axis that may have any size."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Form:
    """One of several signatures of a loss, such as class indices or probabilities as the target."""

    #: The shape contracts of its tensors, each a line that `Shape.parse` reads.
    shapes: tuple[str, ...]
    #: The roles of its tensors, in the order of the call.
    tensors: Mapping[str, Role]
    name: str = ""
    #: Whether an implementation may lack the form. If no such call ever works, it is taken to lack
    #: it.
    optional: bool = False
    #: The summand of each element in the divisor of the mean: a function of the same arguments as
    #: `define`. The default is 1 for each element.
    divisor: Definition | None = None
    #: The factor of each element in the mean, likewise.
    share: Definition | None = None
    #: The declaration of the mean, instead of `divisor` and `share`, if the mean of nothing is not
    #: NaN, or if the divisor has a floor.
    mean: Mean = field(default_factory=Mean)
    #: Whether an ignored element may hold any number, also inf or NaN, as if it were removed. If
    #: not, what such numbers do is open: a product with 0 gives NaN, and a selection does not.
    skips_ignored: bool = False
    #: The parameters whose values select this form.
    fixed: Mapping[str, Any] = field(default_factory=dict)
    #: A function that makes drawn tensors fit each other, if roles cannot express how. It takes a
    #: random generator, the tensors and the parameters, and changes them in place. It must keep the
    #: dtype of each tensor.
    settle: Callable[[np.random.Generator, dict[str, np.ndarray], dict[str, Any]], None] | None = (
        None
    )
    #: For an axis with restricted sizes: a tuple of the allowed sizes, or a function that computes
    #: the size from the other sizes and the parameters. `AnySize` restricts what is drawn only.
    sizes: Mapping[str, Sequence[int] | SizeRule] = field(default_factory=dict)
    #: The largest number of classes to draw. It should exceed the largest int8 or, if the loss has
    #: fused kernels, the size of one of their blocks.
    widest: int = 131
    #: The definition for this form, if it differs from that of the loss.
    define: Definition | None = None
    #: Equivalent forms of that definition.
    equivalents: tuple[Definition, ...] = ()

    def __post_init__(self) -> None:
        # The form keeps both functions, so that `replace` can change one of them.
        for name in ("divisor", "share"):
            declared = getattr(self.mean, name)
            if declared is not None and getattr(self, name) is not None:
                raise SpecError(
                    f"form {self.name!r} has {name}= of its own and another one in its Mean; give "
                    "one of them"
                )
            object.__setattr__(self, name, getattr(self, name) or declared)
        object.__setattr__(self, "mean", replace(self.mean, divisor=None, share=None))

    @cached_property
    def contracts(self) -> tuple[Shape, ...]:
        """The shape contracts in `shapes`, parsed."""
        return tuple(Shape.parse(text) for text in self.shapes)

    @property
    def ignores(self) -> bool:
        """Whether a call may mark some elements as ignored."""
        return any(_ignorable(role) for role in self.tensors.values())

    def lists_classes(self, shape: Shape) -> bool:
        """Return whether a tensor lists class indices along the class axis, padded at the end."""
        return any(
            isinstance(role, ClassIndex) and role.classes in axes
            for role, axes in zip(self.tensors.values(), shape.inputs, strict=True)
        )


@dataclass(frozen=True, kw_only=True)
class Example:
    """An example: a call in Python numbers, its value and the source of that value.

    Attributes:
        arguments: The tensors by name, as numbers or nested lists.
        value: The value, as a number or nested list.
        source: The publication or the calculation that gives the value.
        parameters: The parameters by name that differ from the default.
        reduction: The reduction of the call.
        form: The name of the form.
        digits: How many decimal places of the value are stated.
    """

    arguments: Mapping[str, Any]
    value: Any
    source: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    reduction: str = "mean"
    form: str = ""
    digits: int = 4


@dataclass(frozen=True, kw_only=True)
class Symmetry:
    """A change of the tensors that does not change the loss.

    Attributes:
        says: The change, as a clause without a full stop.
        maps: For each tensor that changes: the tensor that it is computed from, a factor and an
            offset. `{"input": ("target", 1, 0), "target": ("input", 1, 0)}` swaps two tensors.
        without: Optional tensors with which the symmetry does not hold.
    """

    says: str
    maps: Mapping[str, tuple[str, int, int]]
    without: tuple[str, ...] = ()


#: The symmetries of a loss of |input - target|.
OF_DIFFERENCE = (
    Symmetry(
        says="input and target swapped",
        maps={"input": ("target", 1, 0), "target": ("input", 1, 0)},
    ),
    Symmetry(
        says="input and target negated",
        maps={"input": ("input", -1, 0), "target": ("target", -1, 0)},
    ),
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Loss:
    """The specification of one loss: all that the suite knows about it."""

    #: The name of the function, as in `torch.nn.functional`, and that of the class, as in
    #: `torch.nn`; None if there is no class.
    name: str
    module: str | None
    #: The loss in a sentence, in LaTeX, and the address that defines it.
    summary: str
    formula: str
    source: str
    #: The unreduced loss: a function of the tensors and parameters by name. It sees the core axes
    #: last, and uses the words of `lossspec.maths`.
    define: Definition
    #: Other right formulations of `define`, which round differently or have another subgradient at
    #: a kink. The budget covers each of them.
    equivalents: tuple[Definition, ...] = ()
    forms: tuple[Form, ...]
    #: The roles of the optional tensors by name.
    options: Mapping[str, Role] = field(default_factory=dict)
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    #: The names of the batch axis and of the class axis in shape contracts, by torch's convention.
    batch: str = "N"
    classes: str = "C"
    #: How the rows of a batch relate. If they are not independent, `define` gets the batch axis of
    #: each tensor among the core axes, and returns the losses of all rows along a last axis.
    rows: Rows = "independent"
    #: Whether a batch that is repeated as a whole gives each row the same loss as before.
    repeatable: bool = False
    #: The names of its reductions, the default first.
    reductions: tuple[str, ...] = ("mean", "sum", "none")
    #: A function that returns the arguments of the class besides parameters, from the sizes of the
    #: axes and the names of the tensors.
    constructor: Callable[[Mapping[str, int], Collection[str]], dict[str, Any]] | None = None
    #: A function that returns how many parts of the batch an implementation adds up, one after the
    #: other, from the sizes of the axes and the parameters. The budget of a sum grows with their
    #: number. The default is one part.
    parts: SizeRule | None = None
    #: For each reduction, where the result of a call holds it: the name of an attribute, the index
    #: in a tuple or the `Key` of a dict. A call with different places for its reductions takes no
    #: `reduction`.
    results: Mapping[str, str | int] = field(default_factory=dict)
    #: The surfaces whose calls return such a result; other calls return the loss itself.
    results_on: tuple[Surface, ...] = ("class",)
    dtypes: tuple[str, ...] = REAL_DTYPES
    refusals: tuple[Refusal, ...] = ()
    symmetries: tuple[Symmetry, ...] = ()
    #: Whether renumbering the classes leaves the loss unchanged.
    exchangeable: bool = True
    #: Whether torch documents the deprecated `size_average` and `reduce` for the class.
    deprecated_reductions: bool = False
    #: Whether torch documents complex inputs.
    complex: bool = False
    #: The tensors to which a common number can be added without a change of the loss, such as the
    #: logits. If a layer computes the logits, its bias.
    shift_invariant: tuple[str, ...] = ()
    #: Whether the loss is piecewise linear in its differentiable tensors, so that all its second
    #: derivatives are 0.
    piecewise_linear: bool = False
    #: Whether autograd of the textbook formula gives second derivatives. Otherwise none are judged.
    differentiable_twice: bool = True
    #: Whether an implementation may broadcast tensors of different shapes without a warning.
    broadcasts: bool = False
    #: Whether the class has torch's methods `log_prob` and `predict`.
    ranks: bool = False
    examples: tuple[Example, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        forms = tuple(_counting_along(form, self.classes) for form in self.forms)
        object.__setattr__(self, "forms", forms)
        for problem in _problems(self):
            raise SpecError(f"spec {self.name!r}: {problem}")

    def __repr__(self) -> str:
        return f"<spec {self.name!r}>"

    def place_of(self, reduction: str, surface: Surface) -> str | int | None:
        """Return where the result of a call holds a reduction; None if it is the result itself."""
        return self.results.get(reduction) if surface in self.results_on else None

    def returns_every_reduction(self, surface: Surface) -> bool:
        """Return whether one call returns all reductions, and so takes no `reduction`."""
        return surface in self.results_on and len(set(self.results.values())) > 1

    @property
    def breadth(self) -> int:
        """How many ways calls can vary: shape contracts, parameters and optional tensors."""
        shapes = sum(len(form.contracts) for form in self.forms)
        return shapes + len(self.parameters) + len(self.options)

    @property
    def default_dtype(self) -> str:
        """The dtype of default calls: float32, or the first one if the loss does not take it."""
        return "float32" if "float32" in self.dtypes else self.dtypes[0]

    @property
    def ignores(self) -> bool:
        """Whether a call in some form may mark elements as ignored."""
        return any(form.ignores for form in self.forms)

    def batched(self, shape: Shape) -> bool:
        """Return whether the result of a shape contract has the batch axis."""
        return self.batch in shape.result

    def coupled_axis(self, shape: Shape) -> str:
        """Return the batch axis if a shape contract has a loss for each row of coupled rows."""
        return self.batch if self.rows != "independent" and self.batched(shape) else ""

    def whole_batch(self, shape: Shape) -> bool:
        """Return whether a result of a shape contract depends on all rows of the batch."""
        inputs = any(self.batch in axes for axes in shape.inputs)
        return inputs and (self.rows != "independent" or not self.batched(shape))

    def stateful(self, surface: Surface) -> bool:
        """Return whether the surface is a class that keeps some tensors as its own parameters."""
        return surface == "class" and any(
            role.state for form in self.forms for role in self.roles(form).values()
        )

    def form(self, name: str) -> Form:
        """Return the form with this name."""
        return self._forms[name]

    @cached_property
    def _forms(self) -> dict[str, Form]:
        return {form.name: form for form in self.forms}

    def allows(self, form: Form, sizes: Mapping[str, int], parameters: Mapping[str, Any]) -> bool:
        """Return whether the axes of a call may have these sizes together.

        Args:
            form: The form of the call.
            sizes: The size of each axis by name.
            parameters: The parameters of the call by name.

        Raises:
            SpecError: A size function of the spec raises.
        """
        for axis, size in sizes.items():
            first = root(axis)
            if size != (int(first) if first.isdigit() else sizes.get(first, size)):
                return False
        for axis, size in self.counted_by(form, parameters).items():
            if sizes.get(axis, size) != size:
                return False
        for axis, rule in form.sizes.items():
            if axis not in sizes or isinstance(rule, AnySize):
                continue
            if callable(rule):
                with blaming(self.name, f"sizes[{axis!r}]", sizes=sizes):
                    allowed = sizes[axis] == rule(sizes, parameters)
            else:
                allowed = sizes[axis] in rule
            if not allowed:
                return False
        return True

    def broken_rule(
        self, tensors: Mapping[str, np.ndarray], parameters: Mapping[str, Any]
    ) -> Refusal | None:
        """Return the first refusal whose rule a call breaks; None for a valid call.

        Args:
            tensors: The tensors of the call by name.
            parameters: The parameters of the call by name.

        Raises:
            SpecError: A rule raises.
        """
        for refusal in self.refusals:
            if not refusal.holds(self.name, tensors, parameters):
                return refusal
        return None

    def counted_by(self, form: Form, parameters: Mapping[str, Any]) -> dict[str, int]:
        """Return the sizes of the axes for whose elements a parameter has a number each."""
        known = self.parameters_of(form)
        return {
            known[name].along: len(value)
            for name, value in parameters.items()
            if name in known and known[name].along
        }

    def equivalents_of(self, form: Form) -> tuple[Definition, ...]:
        """Return the equivalent forms of the definition that a form has."""
        return form.equivalents if form.define else self.equivalents

    def roles(self, form: Form) -> dict[str, Role]:
        """Return the role of every tensor of a form by name, those of optional tensors last."""
        return self._roles[form.name]

    @cached_property
    def _roles(self) -> dict[str, dict[str, Role]]:
        return {form.name: {**form.tensors, **self.options} for form in self.forms}

    def parameters_of(self, form: Form) -> dict[str, Parameter]:
        """Return the parameters that a form takes; a fixed one has its fixed value only."""
        return self._parameters[form.name]

    @cached_property
    def _parameters(self) -> dict[str, dict[str, Parameter]]:
        return {
            form.name: {
                name: replace(parameter, values=(form.fixed[name],))
                if name in form.fixed
                else parameter
                for name, parameter in self.parameters.items()
                if not parameter.forms or form.name in parameter.forms
            }
            for form in self.forms
        }


def place_text(place: str | int | None) -> str:
    """Return the code that takes the loss from the result of a call; "" for the result itself."""
    if place is None:
        return ""
    if isinstance(place, Key | int):
        return f"[{str(place)!r}]" if isinstance(place, Key) else f"[{place}]"
    return f".{place}"


def _counting_along(form: Form, classes: str) -> Form:
    """Return a form in which every tensor of class indices names its class axis."""
    named = {
        name: replace(role, classes=classes)
        for name, role in form.tensors.items()
        if isinstance(role, ClassIndex) and not role.classes
    }
    return replace(form, tensors={**form.tensors, **named}) if named else form


def _problems(loss: Loss) -> Iterator[str]:
    """Yield the errors in a spec. Each check relies on those before it."""
    for name in (loss.name, loss.module):
        if name is not None and not name.isidentifier():
            yield f"the names of a loss are Python identifiers, got {name!r}"
    for kind, named, of in (
        *(("tensors", form.tensors, Role) for form in loss.forms),
        ("options", loss.options, Role),
        ("parameters", loss.parameters, Parameter),
    ):
        for name, given in named.items():
            if not isinstance(given, of):
                yield f"{kind} takes a {of.__name__} for {name!r}, got {given!r}"
    if not loss.forms:
        yield "forms is empty; give at least one Form"
    forms = [form.name for form in loss.forms]
    if len(set(forms)) < len(forms):
        yield f"each form needs a name of its own, got {', '.join(map(repr, forms))}"
    for parameter, declared in loss.parameters.items():
        yield from _unknown(f"forms of {parameter!r}", declared.forms, forms)
    for form in loss.forms:
        yield from _problems_of_form(loss, form)
    yield from _problems_of_rows(loss)
    yield from _unknown("dtypes", loss.dtypes, REAL_DTYPES)
    every = {name: role for form in loss.forms for name, role in loss.roles(form).items()}
    if isinstance(loss.shift_invariant, tuple):
        yield from _unknown("shift_invariant", loss.shift_invariant, every)
    else:
        yield f"shift_invariant takes a tuple of names of tensors, got {loss.shift_invariant!r}"
    for refusal in loss.refusals:
        if isinstance(refusal, Refusal):
            yield from refusal.problems(every, loss.parameters)
        else:
            yield f"refusals takes a tuple of Refusal, got {refusal!r}"
    yield from _unknown("results", loss.results, loss.reductions)
    if loss.results and (missing := ", ".join(n for n in loss.reductions if n not in loss.results)):
        yield f"results lacks the reductions {missing}; name where a result holds each of them"
    yield from _unknown("results_on", loss.results_on, get_args(Surface))
    if loss.parts is not None and not callable(loss.parts):
        yield f"parts takes a function of the sizes and the parameters, got {loss.parts!r}"
    for example in loss.examples:
        yield from _unknown("form of an example", [example.form], forms)
        form = loss.form(example.form)
        takes = loss.parameters_of(form)
        yield from _unknown("arguments of an example", example.arguments, loss.roles(form))
        yield from _unknown("parameters of an example", example.parameters, takes)
        yield from _unknown("reduction of an example", [example.reduction], loss.reductions)
        if missing := ", ".join(form.tensors.keys() - example.arguments.keys()):
            yield f"an example lacks values for {missing}"


def _problems_of_rows(loss: Loss) -> Iterator[str]:
    """Yield the errors in the declaration of how the rows of a batch relate."""
    yield from _unknown("rows", [loss.rows], get_args(Rows))
    contracts = [contract for form in loss.forms for contract in form.contracts]
    whole = any(loss.whole_batch(contract) for contract in contracts)
    for declared in (f"rows={loss.rows!r}",) * (loss.rows != "independent") + (
        "repeatable=True",
    ) * loss.repeatable:
        if not whole:
            yield (
                f"{declared} is about the batch axis {loss.batch!r} of losses that depend on the "
                "whole batch, but no shape contract has such a loss; name the axis with "
                "Loss(batch=...), or declare rows='coupled'"
            )
    ignored = [n for f in loss.forms for n, role in f.tensors.items() if _ignorable(role)]
    if loss.rows != "independent" and ignored:
        yield (
            f"rows={loss.rows!r} allows no tensor with ignored_by, got {ignored[0]!r}; take a "
            "tensor that says which rows count, and leave the others out in define"
        )


def _ignorable(role: Role) -> bool:
    return isinstance(role, ClassIndex) and role.ignored_by is not None


def _problems_of_form(loss: Loss, form: Form) -> Iterator[str]:
    """Yield the errors in a form."""
    shapes: Any = form.shapes
    if isinstance(shapes, str) or not shapes:
        yield f"shapes takes a tuple of shape contracts, got {shapes!r}"
    for axis, rule in form.sizes.items():
        if not callable(rule):
            yield from _problems_of_sizes(axis, rule)
    for shape in form.contracts:
        if len(shape.inputs) != len(form.tensors):
            names = ", ".join(form.tensors) or "none"
            yield (
                f"the shape contract {shape.text!r} needs one group of axes for each tensor; the "
                f"tensors are: {names}"
            )
        yield from _problems_of_classes(loss, form, shape)
        yield from _problems_of_structure(form, shape)
        for name, parameter in loss.parameters.items():
            if parameter.along and (not parameter.forms or form.name in parameter.forms):
                where = f"along of the parameter {name!r} in {shape.text!r}"
                yield from _unknown(where, [parameter.along], shape.core)
    yield from form.mean.problems()
    yield from _unknown("fixed", form.fixed, loss.parameters)
    known = [*loss.roles(form), *loss.parameters_of(form)]
    parts = [("define", form.define or loss.define), ("divisor", form.divisor)]
    parts += [("share", form.share)]
    parts += [("an equivalent form", each) for each in loss.equivalents_of(form)]
    for part, function in parts:
        if function is not None:
            yield from _unknown(f"arguments of {part}", signature(function).parameters, known)


def _problems_of_classes(loss: Loss, form: Form, shape: Shape) -> Iterator[str]:
    """Yield an error for each tensor whose class axis a shape contract lacks."""
    every = {*form.sizes, *(axis for axes in shape.inputs for axis in axes)}
    for (name, role), axes in zip(form.tensors.items(), shape.inputs, strict=False):
        counted = isinstance(role, ClassIndex) and role.classes not in every
        if counted or (isinstance(role, Distribution) and loss.classes not in axes):
            axis = role.classes if isinstance(role, ClassIndex) else loss.classes
            yield (
                f"{name!r} refers to classes, but the shape contract {shape.text!r} has no axis "
                f"{axis!r} for them; name their axis with Loss(classes=...)"
            )


def _problems_of_structure(form: Form, shape: Shape) -> Iterator[str]:
    """Yield an error for each tensor that lacks the axis along which its role restricts numbers."""
    for (name, role), axes in zip(form.tensors.items(), shape.inputs, strict=False):
        if not isinstance(role, Constrained) or role.elementwise:
            continue
        kind, at = type(role).__name__, role.axis(axes)
        if at is None:
            yield (
                f"the {kind} {name!r} needs an axis {role.along or ''!r} to restrict its numbers "
                f"along, but its axes in {shape.text!r} are ({', '.join(map(root, axes))}); name "
                "one of them with along=..."
            )
        elif isinstance(role, Box) and root(axes[at]) != str(SIDES_OF_A_BOX):
            yield (
                f"the Box {name!r} needs an axis of size {SIDES_OF_A_BOX} in {shape.text!r}, as in "
                f"'(N, {SIDES_OF_A_BOX})', got the axis {root(axes[at])!r}"
            )


def _problems_of_sizes(axis: str, rule: Any) -> Iterator[str]:
    """Yield the errors in a list of sizes, from which a size is drawn."""
    if isinstance(rule, str) or not isinstance(rule, Sequence) or not rule:
        yield f"sizes of {axis!r} takes a tuple of sizes or a function, got {rule!r}"
    elif any(not isinstance(size, int) or size < 0 for size in rule):
        yield f"sizes of {axis!r} takes whole numbers of 0 or more, got {tuple(rule)!r}"


def _unknown(place: str, given: Collection[str], known: Collection[str]) -> Iterator[str]:
    """Yield an error for each given name that is not known."""
    for name in given:
        if name not in known:
            yield f"{place}: unknown {name!r}; known: {', '.join(map(repr, known)) or 'none'}"


def names_of(losses: Iterable[Loss]) -> list[str]:
    """Return the names of the functions and of the classes of losses."""
    return [name for loss in losses for name in (loss.name, loss.module) if name is not None]
