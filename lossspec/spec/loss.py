"""The specification of a loss: forms, definition, refusals, symmetries, examples."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from inspect import signature
from typing import Any

import numpy as np

from lossspec.dtypes import REAL_DTYPES
from lossspec.errors import SpecError, blaming
from lossspec.spec.parameters import Parameter
from lossspec.spec.roles import ClassIndex, Distribution, Role, Surface
from lossspec.spec.shapes import Shape

#: A function of tensors and parameters by name.
Definition = Callable[..., Any]
SizeRule = Callable[[Mapping[str, int], Mapping[str, Any]], int]


class AnySize(tuple[int, ...]):
    """Sizes worth drawing of an axis that may have any size."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Form:
    """One way to call a loss."""

    #: The shapes that its tensors take, as `Shape.parse` reads them.
    shapes: tuple[str, ...]
    #: The roles of its tensors, in call order.
    tensors: Mapping[str, Role]
    name: str = ""
    #: Whether an implementation in which no such call ever works is taken to have no such form.
    optional: bool = False
    #: What each element counts for in the divisor of the mean, from the same arguments as `define`;
    #: 1 when it is left out.
    divisor: Definition | None = None
    #: What each element is multiplied by in the mean, likewise.
    share: Definition | None = None
    #: Parameters that make it this form.
    fixed: Mapping[str, Any] = field(default_factory=dict)
    #: Makes freshly drawn tensors fit each other, where roles cannot say how: given a random
    #: generator, it may change the tensors and parameters by name, but no tensor's dtype.
    settle: Callable[[np.random.Generator, dict[str, np.ndarray], dict[str, Any]], None] | None = (
        None
    )
    #: For an axis that not every size suits: the only ones allowed, or the one that follows from
    #: the other sizes and the parameters. `AnySize` lists the ones worth drawing of all sizes.
    sizes: Mapping[str, Sequence[int] | SizeRule] = field(default_factory=dict)
    #: The most classes worth drawing: more than a byte counts or, where that has fused kernels,
    #: than one of their blocks holds.
    widest: int = 131
    #: The loss's definition in terms of these tensors, where they are other ones.
    define: Definition | None = None
    #: Equivalent forms of that definition.
    equivalents: tuple[Definition, ...] = ()

    @cached_property
    def contracts(self) -> tuple[Shape, ...]:
        """Its shapes, parsed."""
        return tuple(Shape.parse(text) for text in self.shapes)

    @property
    def ignores(self) -> bool:
        """Whether some elements may be marked as ones that do not count."""
        return any(
            isinstance(role, ClassIndex) and role.ignored_by is not None
            for role in self.tensors.values()
        )

    def lists_classes(self, shape: Shape) -> bool:
        """Whether class indices are a list with an entry for each class, padded where shorter."""
        return any(
            isinstance(role, ClassIndex) and role.classes in axes
            for role, axes in zip(self.tensors.values(), shape.inputs, strict=True)
        )


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A call that must raise.

    says : what is wrong with the call. breaks : turns the arguments of a valid call (`tensors` by
    name as numpy arrays, `parameters` by name) into the invalid one, in place, or returns False
    where this call cannot be made invalid that way.
    """

    says: str
    breaks: Callable[[dict[str, Any], dict[str, Any]], bool | None]


@dataclass(frozen=True, kw_only=True)
class Example:
    """An example: a call in plain numbers, its value, and where that comes from."""

    arguments: Mapping[str, Any]
    value: Any
    source: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    reduction: str = "mean"
    form: str = ""
    digits: int = 4


@dataclass(frozen=True, kw_only=True)
class Symmetry:
    """A change of the tensors that leaves the loss exactly as it is.

    maps : for each tensor that changes, the one it is made from, a factor and an offset:
    `{"input": ("target", 1, 0), "target": ("input", 1, 0)}` swaps two. without : optional tensors
    that break it.
    """

    says: str
    maps: Mapping[str, tuple[str, int, int]]
    without: tuple[str, ...] = ()


#: Of losses of the difference of two tensors: it does not matter which comes first, or both signs.
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
    """The specification of one loss."""

    #: The function's name, as in `torch.nn.functional`, and the class's, as in `torch.nn`.
    name: str
    module: str | None
    #: What it is: in a sentence, in LaTeX, and where that is said.
    summary: str
    formula: str
    source: str
    #: The unreduced loss, from the tensors and parameters by name. Core axes come last.
    define: Definition
    #: Other right formulations of `define`, which round differently or have another subgradient at
    #: a kink. The budget covers each of them.
    equivalents: tuple[Definition, ...] = ()
    forms: tuple[Form, ...]
    #: Optional tensors.
    options: Mapping[str, Role] = field(default_factory=dict)
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    #: The axes that shapes call the batch and the classes; the defaults are torch's convention.
    batch: str = "N"
    classes: str = "C"
    #: By name, the first being the default.
    reductions: tuple[str, ...] = ("mean", "sum", "none")
    #: What the class takes beyond parameters, from the sizes of the axes and the names of the
    #: tensors.
    constructor: Callable[[Mapping[str, int], Collection[str]], dict[str, Any]] | None = None
    #: How many parts of the batch the parameters of a call have an implementation add up, one after
    #: the other, from the sizes of the axes and the parameters; 1 when it is left out. The budget
    #: of a sum allows for so many.
    parts: SizeRule | None = None
    #: What to read from the class's result, by reduction, where it has none to choose.
    results: Mapping[str, str] = field(default_factory=dict)
    dtypes: tuple[str, ...] = REAL_DTYPES
    refusals: tuple[Refusal, ...] = ()
    symmetries: tuple[Symmetry, ...] = ()
    #: Whether classes may be renumbered.
    exchangeable: bool = True
    #: Whether the class is documented to take torch's deprecated `size_average` and `reduce`.
    deprecated_reductions: bool = False
    #: Whether complex inputs are documented.
    complex: bool = False
    #: Whether a common offset of all logits of a row changes nothing.
    shift_invariant: bool = False
    #: Whether the class has torch's `log_prob` and `predict`, about every class of each row.
    ranks: bool = False
    examples: tuple[Example, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        forms = tuple(_counting_along(form, self.classes) for form in self.forms)
        object.__setattr__(self, "forms", forms)
        for problem in _problems(self):
            raise SpecError(f"spec {self.name!r}: {problem}")

    @property
    def breadth(self) -> int:
        """In how many ways calls differ in kind: shapes, parameters and optional tensors."""
        shapes = sum(len(form.contracts) for form in self.forms)
        return shapes + len(self.parameters) + len(self.options)

    @property
    def ignores(self) -> bool:
        """Whether some elements of a call may be marked as ones that do not count."""
        return any(form.ignores for form in self.forms)

    def batched(self, shape: Shape) -> bool:
        """Whether a shape contract is about a batch of samples."""
        return self.batch in shape.result

    def stateful(self, surface: Surface) -> bool:
        """Whether the class keeps some of the call's tensors as its own parameters."""
        return surface == "class" and any(
            role.state for form in self.forms for role in self.roles(form).values()
        )

    def form(self, name: str) -> Form:
        """The form of a name."""
        return self._forms[name]

    @cached_property
    def _forms(self) -> dict[str, Form]:
        return {form.name: form for form in self.forms}

    def allows(self, form: Form, sizes: Mapping[str, int], parameters: Mapping[str, Any]) -> bool:
        """Whether axes may have these sizes together."""
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

    def equivalents_of(self, form: Form) -> tuple[Definition, ...]:
        """Return the equivalent forms of the definition that a form has."""
        return form.equivalents if form.define else self.equivalents

    def roles(self, form: Form) -> dict[str, Role]:
        """Every tensor of a call by name, the optional ones last."""
        return self._roles[form.name]

    @cached_property
    def _roles(self) -> dict[str, dict[str, Role]]:
        return {form.name: {**form.tensors, **self.options} for form in self.forms}

    def parameters_of(self, form: Form) -> dict[str, Parameter]:
        """The parameters that this form knows; a fixed one has only its value."""
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


def _counting_along(form: Form, classes: str) -> Form:
    """The form with a class axis for each tensor of class indices that names none."""
    named = {
        name: replace(role, classes=classes)
        for name, role in form.tensors.items()
        if isinstance(role, ClassIndex) and not role.classes
    }
    return replace(form, tensors={**form.tensors, **named}) if named else form


def _problems(loss: Loss) -> Iterator[str]:
    """What keeps a spec from being judged by; the parts are looked at in an order that is safe."""
    for name in (loss.name, loss.module):
        if name is not None and not name.isidentifier():
            yield f"a loss is named like a function or class of Python, got {name!r}"
    for kind, named, of in (
        *(("tensors", form.tensors, Role) for form in loss.forms),
        ("options", loss.options, Role),
        ("parameters", loss.parameters, Parameter),
    ):
        for name, given in named.items():
            if not isinstance(given, of):
                yield f"{kind} takes a {of.__name__} for {name!r}, got {given!r}"
    if not loss.forms:
        yield "it needs a form"
    forms = [form.name for form in loss.forms]
    if len(set(forms)) < len(forms):
        yield f"forms need names of their own, got {', '.join(map(repr, forms))}"
    for parameter, declared in loss.parameters.items():
        yield from _unknown(f"forms of {parameter!r}", declared.forms, forms)
    for form in loss.forms:
        yield from _problems_of_form(loss, form)
    yield from _unknown("dtypes", loss.dtypes, REAL_DTYPES)
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
            yield f"an example lacks {missing}"


def _problems_of_form(loss: Loss, form: Form) -> Iterator[str]:
    shapes: Any = form.shapes
    if isinstance(shapes, str) or not shapes:
        yield f"shapes takes a tuple of lines, got {shapes!r}"
    for axis, rule in form.sizes.items():
        if not callable(rule):
            yield from _problems_of_sizes(axis, rule)
    for shape in form.contracts:
        if len(shape.inputs) != len(form.tensors):
            names = ", ".join(form.tensors) or "none"
            yield f"the shape contract {shape.text!r} does not fit the tensors: {names}"
        yield from _problems_of_classes(loss, form, shape)
    yield from _unknown("fixed", form.fixed, loss.parameters)
    known = [*loss.roles(form), *loss.parameters_of(form)]
    parts = [("define", form.define or loss.define), ("divisor", form.divisor)]
    parts += [("share", form.share)]
    parts += [("an equivalent form", each) for each in loss.equivalents_of(form)]
    for part, function in parts:
        if function is not None:
            yield from _unknown(f"arguments of {part}", signature(function).parameters, known)


def _problems_of_classes(loss: Loss, form: Form, shape: Shape) -> Iterator[str]:
    """Say which tensors are about classes along an axis that a shape contract lacks."""
    every = {*form.sizes, *(axis for axes in shape.inputs for axis in axes)}
    for (name, role), axes in zip(form.tensors.items(), shape.inputs, strict=False):
        counted = isinstance(role, ClassIndex) and role.classes not in every
        if counted or (isinstance(role, Distribution) and loss.classes not in axes):
            axis = role.classes if isinstance(role, ClassIndex) else loss.classes
            yield (
                f"{name!r} is about classes, and the shape contract {shape.text!r} has no axis "
                f"{axis!r} for them; Loss(classes=...) names their axis"
            )


def _problems_of_sizes(axis: str, rule: Any) -> Iterator[str]:
    """What keeps a list of sizes from being one: a size is drawn from it."""
    if isinstance(rule, str) or not isinstance(rule, Sequence) or not rule:
        yield f"sizes of {axis!r} takes a tuple of sizes or a function, got {rule!r}"
    elif any(not isinstance(size, int) or size < 0 for size in rule):
        yield f"sizes of {axis!r} takes whole numbers of 0 or more, got {tuple(rule)!r}"


def _unknown(place: str, given: Collection[str], known: Collection[str]) -> Iterator[str]:
    for name in given:
        if name not in known:
            yield f"{place}: unknown {name!r}; known: {', '.join(map(repr, known)) or 'none'}"


def names_of(losses: Iterable[Loss]) -> list[str]:
    """The names of losses, of functions and of classes."""
    return [name for loss in losses for name in (loss.name, loss.module) if name is not None]
