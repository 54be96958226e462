"""What a loss is: tensors with roles, shapes, parameters, a definition, refusals."""

from __future__ import annotations

import importlib
import pkgutil
import re
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from importlib.metadata import EntryPoint, entry_points
from inspect import signature
from typing import Any, Literal

import numpy as np

from lossspec.maths import Definition
from lossspec.nearest import suggestion
from lossspec.safe_text import foreign_error, one_line

REAL_DTYPES = ("float32", "float64", "float16", "bfloat16")
Surface = Literal["function", "class"]


class SpecError(ValueError):
    """A spec that no loss can be judged by; the message names the spec and what is wrong in it."""


@contextmanager
def blaming(
    loss: str,
    function: str,
    tensors: Mapping[str, Any] | None = None,
    sizes: Mapping[str, int] | None = None,
) -> Iterator[None]:
    """Raise SpecError in place of an exception that a function of a spec raises.

    loss, function : the names of the spec and of its function, such as `settle`. tensors, sizes :
    the arrays that the function was called with, or the sizes of axes.
    """
    try:
        yield
    except SpecError:
        raise
    except (Exception, SystemExit) as error:
        given = [f"{name} of shape {list(np.shape(x))}" for name, x in (tensors or {}).items()]
        given += [f"{axis} = {size}" for axis, size in (sizes or {}).items()]
        called = f", called with {', '.join(given)}" if given else ""
        said = repr(" ".join(str(error).split())[:300])
        raise SpecError(
            f"spec {loss!r}: {function} raised {type(error).__name__}{called}; it said {said}"
        ) from error


# === tensors ==============================================================================


@dataclass(frozen=True, kw_only=True)
class Role:
    """What the numbers of a tensor mean, and therefore which ones a valid call may hold."""

    #: The domain, ends included.
    low: float = float("-inf")
    high: float = float("inf")
    #: Whether the documentation promises a gradient.
    differentiable: bool = True
    #: Of an optional tensor: its own shape, such as `(C)`; `like input` for the shape of that
    #: tensor; `broadcasts with input` for any shape that expands to it.
    shape: str | None = None
    #: Of an optional tensor: the number that `define` gets when it is left out.
    default: float | None = None
    #: Of an optional tensor: where it may be given.
    surfaces: tuple[Surface, ...] = ("function", "class")
    #: Whether it is passed as a Python number, or as a tuple of them.
    scalar: bool = False
    #: The name of a torch function, applied along the class axis, whose result the call gets in
    #: place of the tensor itself; gradients are judged in front of it.
    through: str | None = None
    #: The name of the parameter as which the class owns it, with the same numbers in any shape: it
    #: is loaded after construction.
    state: str | None = None
    #: What a reader should know beside the role.
    doc: str = ""

    #: How `lossspec.cases` draws dense values for it.
    style = "real"
    #: Integers are indices, signs, lengths: exact, and without a gradient.
    integer = False

    @property
    def optional(self) -> bool:
        """Whether a call may leave it out."""
        return self.default is not None


@dataclass(frozen=True, kw_only=True)
class Real(Role):
    """Any real number."""


@dataclass(frozen=True, kw_only=True)
class Factor(Real):
    """A factor that a layer multiplies with others and sums, `count` of them to a product.

    Its size is such that the dtype still resolves the sums.
    """

    count: int = 2
    style = "factor"


@dataclass(frozen=True, kw_only=True)
class Logit(Role):
    """An unnormalised score: any real number, also large ones with a common offset."""

    style = "logit"


@dataclass(frozen=True, kw_only=True)
class LogProbability(Role):
    """The logarithm of a probability: at most 0."""

    high: float = 0.0
    style = "log_probability"


@dataclass(frozen=True, kw_only=True)
class Probability(Role):
    """A number in [0, 1]."""

    low: float = 0.0
    high: float = 1.0
    style = "probability"


@dataclass(frozen=True, kw_only=True)
class Distribution(Probability):
    """Probabilities that sum to 1 along the class axis."""

    style = "distribution"


@dataclass(frozen=True, kw_only=True)
class Positive(Role):
    """A number above 0."""

    low: float = 0.0
    style = "positive"


@dataclass(frozen=True, kw_only=True)
class NonNegative(Role):
    """A number of 0 or more."""

    low: float = 0.0
    style = "non_negative"


@dataclass(frozen=True, kw_only=True)
class Count(Role):
    """An observed count: 0, 1, 2, ... in a floating dtype, so that numbers in between are valid."""

    low: float = 0.0
    style = "count"


@dataclass(frozen=True, kw_only=True)
class Sign(Role):
    """-1 or 1, held in a floating dtype."""

    low: float = -1.0
    high: float = 1.0
    differentiable: bool = False
    style = "sign"


@dataclass(frozen=True, kw_only=True)
class Binary(Role):
    """0 or 1, held in a floating dtype."""

    low: float = 0.0
    high: float = 1.0
    differentiable: bool = False
    style = "binary"


@dataclass(frozen=True, kw_only=True)
class Weight(Role):
    """A factor of 0 or more."""

    low: float = 0.0
    default: float | None = 1.0
    differentiable: bool = False
    style = "weight"


@dataclass(frozen=True, kw_only=True)
class ClassIndex(Role):
    """An integer in [0, C)."""

    low: float = 0.0
    differentiable: bool = False
    #: Whether `define` gets the certain distribution instead.
    one_hot: bool = False
    #: The parameter whose value marks elements that do not count.
    ignored_by: str | None = None
    #: The documented dtypes, and those that may raise, but must be right when they do not.
    dtypes: tuple[str, ...] = ("int64",)
    tolerated: tuple[str, ...] = ("uint8",)
    #: What ends a list of classes: what follows it in its row is no part of the list.
    ends: int | None = None
    #: Whether another integer, or a floating dtype, must raise.
    checked: bool = True
    #: The axis that it counts along.
    classes: str = "C"
    style = "class_index"
    integer = True

    def allows(self, index: np.ndarray, classes: int, parameters: Mapping[str, Any]) -> np.ndarray:
        """Which numbers are classes, or stand for something else by the contract."""
        allowed = (index >= 0) & (index < classes)
        if self.ignored_by is not None:
            allowed |= index == parameters[self.ignored_by]
        if self.ends is not None:
            allowed |= index == self.ends
        return np.asarray(allowed)


@dataclass(frozen=True, kw_only=True)
class Length(Role):
    """How much of an axis counts: an integer from 0 to the size of axis `of`."""

    low: float = 0.0
    differentiable: bool = False
    of: str
    dtypes: tuple[str, ...] = ("int64", "int32")
    style = "length"
    integer = True


# === parameters ===========================================================================


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """An argument that is a plain number, switch or word."""

    default: Any
    #: Valid ones worth drawing, the default first.
    values: tuple[Any, ...]
    #: Ones that must raise.
    refused: tuple[Any, ...] = ()
    #: The names of the forms that know it; all of them when empty.
    forms: tuple[str, ...] = ()
    #: Whether a value is a Python expression in torch; a call gets what it stands for.
    code: bool = False
    #: Values with which only plain backward is documented to work, once.
    limited: tuple[Any, ...] = ()
    #: What it may be as well where a signature lacks it, such as an epsilon of 0.
    absent: Any = None
    #: What a reader should know.
    doc: str = ""

    @property
    def exact(self) -> bool:
        """Whether rounding cannot move it, as an integer or a switch."""
        return self.code or isinstance(self.default, (bool, int, str))


def number(
    default: float,
    *also: float,
    refused: Sequence[Any] = (),
    forms: Sequence[str] = (),
    absent: float | None = None,
    doc: str = "",
) -> Parameter:
    """A real parameter with its default, other values worth drawing, and refused ones.

    What not every dtype holds exactly, such as 0.3 or an epsilon of 1e-8, `define` passes through
    `maths.constant`: it shows whether a parameter is kept in a narrower dtype than the tensors'.
    """
    return Parameter(
        default=float(default),
        values=(float(default), *map(float, also)),
        refused=tuple(refused),
        forms=tuple(forms),
        absent=absent,
        doc=doc,
    )


def switch(default: bool, *, forms: Sequence[str] = (), doc: str = "") -> Parameter:
    """A parameter that is on or off."""
    return Parameter(default=default, values=(default, not default), forms=tuple(forms), doc=doc)


def ignore_index(*, forms: Sequence[str] = (), doc: str = "") -> Parameter:
    """The target value that does not count; it need not be a class."""
    return Parameter(
        default=-100,
        values=(-100, -1, 255, 0, 1, -3),
        forms=tuple(forms),
        doc=doc or "Target value that is ignored: it adds nothing to the loss or its gradient.",
    )


# === shapes ===============================================================================

#: `(N, C, d1, ..., dk)`: any number of further axes, one at least.
_SPREAD = re.compile(r"d1, \.\.\., dk")
_AXES = r"\s*\([^()]*\)\s*"
_CONTRACT = re.compile(rf"({_AXES}(?:,{_AXES})*)->({_AXES})")


@dataclass(frozen=True)
class Shape:
    """One line of a shape contract, such as `(N, C), (N) -> (N)`.

    `*` stands for any number of axes, `d1, ..., dk` for one or more, `1` for an axis of size 1.
    Axes of the inputs that the result lacks are the *core*: `define` sees them last, in the order
    written.
    """

    text: str
    inputs: tuple[tuple[str, ...], ...]
    result: tuple[str, ...]
    spread: int = 0

    @classmethod
    def parse(cls, text: str) -> Shape:
        """Read one line; ValueError names the line when it is not of the form `(..) -> (..)`."""
        match = _CONTRACT.fullmatch(text)
        if match is None:
            raise ValueError(f"a shape contract reads like '(N, C), (N) -> (N)', got {text!r}")

        def axes(group: str) -> tuple[str, ...]:
            group = _SPREAD.sub("d*", group)
            return tuple(axis.strip() for axis in group.split(",") if axis.strip())

        inputs = tuple(axes(group) for group in re.findall(r"\(([^()]*)\)", match[1]))
        return cls(text, inputs, axes(match[2].strip(" ()")))

    @property
    def core(self) -> tuple[str, ...]:
        """The axes that the result lacks."""
        names = [a for axes in self.inputs for a in axes if a not in (*self.result, "1")]
        return tuple(dict.fromkeys(names))

    @property
    def batched(self) -> bool:
        """Whether it is about a batch of samples."""
        return "N" in self.result

    def expand(self, spread: int) -> Shape:
        """The contract with `*` and `d1, ..., dk` written out as `spread` axes."""

        def out(axes: tuple[str, ...]) -> tuple[str, ...]:
            written: list[str] = []
            for axis in axes:
                if axis in ("*", "d*"):
                    written += [f"d{i + 1}" for i in range(spread)]
                else:
                    written.append(axis)
            return tuple(written)

        return Shape(self.text, tuple(map(out, self.inputs)), out(self.result), spread)

    def axes(self, shape: str) -> tuple[str, ...]:
        """The axes of one more tensor, whose shape is written like `(C)` or `(C, *)`."""
        return written_out(f"{shape} -> ()", self.spread).inputs[0]

    @property
    def spreads(self) -> range:
        """How many axes `*` (from none) or `d1, ..., dk` (from one) may stand for."""
        axes = {axis for group in self.inputs for axis in group}
        if "*" in axes:
            return range(6)
        return range(1, 4) if "d*" in axes else range(1)


@cache
def written_out(contract: str, spread: int) -> Shape:
    """A line of a shape contract, parsed and expanded."""
    return Shape.parse(contract).expand(spread)


# === the rest of a contract ===============================================================

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
            isinstance(role, ClassIndex) and "C" in axes
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
    forms: tuple[Form, ...]
    #: Optional tensors.
    options: Mapping[str, Role] = field(default_factory=dict)
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
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
    #: Whether complex inputs are documented.
    complex: bool = False
    #: Whether a common offset of all logits of a row changes nothing.
    shift_invariant: bool = False
    #: Whether the class has torch's `log_prob` and `predict`, about every class of each row.
    ranks: bool = False
    examples: tuple[Example, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
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
    yield from _unknown("fixed", form.fixed, loss.parameters)
    known = [*loss.roles(form), *loss.parameters_of(form)]
    for part in ("define", "divisor", "share"):
        function = getattr(form, part) or (loss.define if part == "define" else None)
        if function is not None:
            yield from _unknown(f"arguments of {part}", signature(function).parameters, known)


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


# === the catalogue ========================================================================

ENTRY_POINTS = "lossspec.specs"


class UnknownName(ValueError):
    """A name that is not one of the known ones; the message says which are like it."""

    def __init__(self, kind: str, given: str, known: Sequence[str]) -> None:
        every = {"loss": "losses", "clause": "clauses"}.get(kind.partition(" ")[0])
        command = f"lossspec list {every}" if every else None
        super().__init__(f"unknown {kind} {given!r}{suggestion(given, known, command)}")


@cache
def catalogue() -> Mapping[str, Loss]:
    """Every specified loss by name: the files of `lossspec.specs`, then entry points."""
    import lossspec.specs

    losses = [
        importlib.import_module(f"lossspec.specs.{module.name}").spec
        for module in pkgutil.iter_modules(lossspec.specs.__path__)
    ]
    known = {loss.name: loss for loss in losses}
    for entry in entry_points(group=ENTRY_POINTS):
        try:
            loss = _loaded(entry, known)
        except (Exception, SystemExit) as error:  # what somebody else installed stops nobody
            by = f" of {entry.dist.name}" if entry.dist else ""
            warnings.warn(
                one_line(
                    f"left out the spec {entry.name!r}{by}, entry point {entry.value!r}: "
                    f"{foreign_error(error)}"
                ),
                stacklevel=2,
            )
        else:
            known[loss.name] = loss
    return dict(sorted(known.items()))


def _loaded(entry: EntryPoint, known: Collection[str]) -> Loss:
    loss = entry.load()
    if not isinstance(loss, Loss):
        raise TypeError(f"group {ENTRY_POINTS!r} must give a Loss, got {loss!r}")
    if loss.name in known:
        raise ValueError(f"another spec is named {loss.name!r}")
    from lossspec.oracle import check_examples  # it imports this module

    check_examples(loss)
    return loss


def find(name: str) -> Loss:
    """The spec of one loss, by function or class name; UnknownName lists the known ones."""
    for loss in catalogue().values():
        if name in (loss.name, loss.module):
            return loss
    raise UnknownName("loss", name, names_of(catalogue().values()))


def names_of(losses: Iterable[Loss]) -> list[str]:
    """The names of losses, of functions and of classes."""
    return [name for loss in losses for name in (loss.name, loss.module) if name is not None]
