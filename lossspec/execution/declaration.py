"""The declaration of an implementation: the abilities that it claims and must then have."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

from lossspec.errors import ArgumentError, ArgumentTypeError, UnknownName
from lossspec.safe_text import one_line
from lossspec.spec.loss import Loss

#: The attribute by which a module or another namespace carries its declaration.
ATTRIBUTE = "__lossspec__"


class Ability(StrEnum):
    """An ability beyond a call in float32; its value is the word that a declaration uses."""

    AUTOCAST = "autocast"
    BFLOAT16 = "bfloat16"
    COMPILE = "compile"
    COMPLEX = "complex"
    EXPORT = "export"
    FAKE_TENSORS = "fake-tensors"
    FLOAT16 = "float16"
    FLOAT64 = "float64"
    FORWARD_MODE = "forward-mode"
    FUNCTIONAL_GRADIENT = "functional-gradient"
    GRADIENT = "gradient"
    MIXED_DTYPES = "mixed-dtypes"
    SCRIPT = "script"
    SECOND_DERIVATIVES = "second-derivatives"
    TENSOR_SUBCLASSES = "tensor-subclasses"
    VMAP = "vmap"


#: The words for dtypes; float32 needs none, since every implementation must take it.
DTYPES = (Ability.BFLOAT16, Ability.FLOAT16, Ability.FLOAT64)


@dataclass(frozen=True)
class AllBut:
    """All losses except some.

    Attributes:
        names: The names of the excepted functions and classes.
    """

    names: frozenset[str]


def all_but(*names: str) -> AllBut:
    """Return all losses except those with these names, for a declaration.

    Args:
        *names: Names of functions or classes.

    Example:
        >>> Declaration(supports={"vmap": all_but("ctc_loss")})
    """
    return AllBut(frozenset(names))


#: The losses that have an ability: all, none, those with some names, or all except those.
Losses = bool | AllBut | Collection[str]
Supports = Iterable[str] | Mapping[str, Losses]


@dataclass(frozen=True)
class Declaration:
    """The abilities that an implementation declares.

    A declared ability that does not work is a deviation. An ability that is not declared is
    inferred: a call that raises is reported as unsupported. A wrong number is always a deviation.

    Attributes:
        supports: The words of the abilities (`Ability`), or a mapping from such words to True,
            False, names of losses or `all_but(...)`.
        differentiable: Whether results have a gradient; "twice" if second derivatives work too.
        compiles: Whether the losses work under torch.compile.
        conventions: For each loss, the values of the parameters that its signature lacks. A
            parameter that is not listed has torch's default.

    Raises:
        UnknownName: A word or a name is not known; the message lists the known ones.
        ArgumentError: A value is not allowed; the message lists the allowed ones.
        ArgumentTypeError: A value has a wrong type.

    Example:
        >>> Declaration(supports={"vmap", "float16"}, compiles=True, differentiable="twice")
    """

    supports: Supports = ()
    differentiable: bool | Literal["twice"] | None = None
    compiles: bool | None = None
    conventions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "supports", _abilities(self))
        _check_conventions(self.conventions)

    def check(self, losses: Iterable[Loss]) -> None:
        """Check that the declaration names known losses, parameters and values.

        Args:
            losses: All losses that an implementation may have.

        Raises:
            UnknownName: A loss or a parameter is not known.
            ArgumentError: The loss must refuse the value of a convention.
        """
        known = {name: loss for loss in losses for name in (loss.name, loss.module) if name}
        assert isinstance(self.supports, Mapping), "__post_init__ turns it into a mapping"
        named = [name for chosen in self.supports.values() for name in _names(chosen)]
        for name in (*named, *self.conventions):
            if name not in known:
                raise UnknownName("loss in a declaration", name, list(known))
        for name, values in self.conventions.items():
            parameters = known[name].parameters
            for word, value in values.items():
                if word not in parameters:
                    raise UnknownName(f"parameter of {name}", word, list(parameters))
                if value in parameters[word].refused:
                    raise ArgumentError(
                        f"conventions: {name} must refuse {word}={value!r}; declare a value that "
                        "it accepts"
                    )

    def abilities(self, loss: Loss) -> dict[Ability, bool]:
        """Return whether a loss has each declared ability; undeclared abilities are left out."""
        assert isinstance(self.supports, Mapping), "__post_init__ turns it into a mapping"
        return {Ability(word): _holds(chosen, loss) for word, chosen in self.supports.items()}

    def convention(self, loss: Loss) -> dict[str, Any]:
        """Return the declared values of the parameters that the signature of a loss lacks."""
        names = [loss.name, *([loss.module] if loss.module else [])]
        return {k: v for name in names for k, v in self.conventions.get(name, {}).items()}


def _abilities(declaration: Declaration) -> dict[Ability, Losses]:
    """Return every declared ability with its losses."""
    found: dict[Ability, Losses] = {}
    for word, losses in _given(declaration.supports).items():
        found[_ability(word)] = _losses(word, losses)
    twice = declaration.differentiable == "twice"
    if declaration.differentiable not in (None, True, False, "twice"):
        raise ArgumentError(
            f'differentiable takes True, False, "twice" or None, got {declaration.differentiable!r}'
        )
    if declaration.compiles not in (None, True, False):
        raise ArgumentError(f"compiles takes True, False or None, got {declaration.compiles!r}")
    shorthands = (
        ("differentiable", Ability.GRADIENT, declaration.differentiable),
        ("differentiable", Ability.SECOND_DERIVATIVES, twice or None),
        ("compiles", Ability.COMPILE, declaration.compiles),
    )
    for keyword, ability, value in shorthands:
        if value is None:
            continue
        if found.setdefault(ability, bool(value)) is not bool(value):
            raise ArgumentError(
                f"{keyword}={getattr(declaration, keyword)!r} contradicts supports for "
                f"{ability.value!r}; declare it once"
            )
    return found


def _given(supports: Any) -> Mapping[Any, Any]:
    """Return `supports` as a mapping from words to losses."""
    if isinstance(supports, Mapping):
        return supports
    words = (supports,) if isinstance(supports, str) else supports
    try:
        return dict.fromkeys(words, True)
    except TypeError:
        raise ArgumentTypeError(
            "supports takes words, or a mapping from words to losses, got "
            f"{one_line(repr(supports))}"
        ) from None


def _ability(word: Any) -> Ability:
    try:
        return Ability(word)
    except ValueError:
        raise UnknownName("ability", str(word), [ability.value for ability in Ability]) from None


def _losses(word: str, losses: Any) -> Losses:
    """Return the losses of an ability, after a check of their type."""
    given = (losses,) if isinstance(losses, str) else losses
    if isinstance(given, bool | AllBut):
        return given
    if isinstance(given, Collection) and all(isinstance(name, str) for name in given):
        return frozenset(given)
    raise ArgumentTypeError(
        f"supports[{str(word)!r}] takes True, False, names of losses or lossspec.all_but(...), got "
        f"{one_line(repr(losses))}"
    )


def _check_conventions(conventions: Any) -> None:
    fits = isinstance(conventions, Mapping) and all(
        isinstance(values, Mapping) for values in conventions.values()
    )
    if not fits:
        raise ArgumentTypeError(
            'conventions takes values by loss and parameter, such as {"triplet_margin_loss": '
            f'{{"eps": 0.0}}}}, got {one_line(repr(conventions))}'
        )


def _names(losses: Losses) -> Collection[str]:
    if isinstance(losses, bool):
        return ()
    return losses.names if isinstance(losses, AllBut) else losses


def _holds(losses: Losses, loss: Loss) -> bool:
    """Return whether a loss is one of these losses."""
    if isinstance(losses, bool):
        return losses
    named = not {loss.name, loss.module}.isdisjoint(_names(losses))
    return not named if isinstance(losses, AllBut) else named
