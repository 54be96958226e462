"""The page about the words of `lossspec.maths` and the roles, made from their docstrings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any

from lossspec import spec
from lossspec.maths import arrays, choices, elementwise, probabilities, sums, words
from lossspec.maths.number import Number
from lossspec.spec.roles import Role
from lossspec.spec_pages.blocks import Bullets, Prose, Table

#: The headings of the page.
THEMES: Mapping[str, ModuleType] = {
    "Element by element": elementwise,
    "Sums and products": sums,
    "Choices, masks and order": choices,
    "Probabilities": probabilities,
    "Picking and joining": arrays,
}
#: The parts of a docstring that follow its description, and their names on the page.
_PARTS = ("Derivative", "Rounding", "Args", "Returns")


def vocabulary() -> Iterator[str]:
    """Yield the parts of the page: what a definition may use, by theme."""
    yield "# Vocabulary"
    yield Prose(
        "The function `define` of a [spec](custom-losses.md) computes with operators and with the"
        " words below, which are the functions of `lossspec.maths`. A word knows its value and its"
        " derivative at edges, and its rounding, from which lossspec makes the"
        " [error budget](budget.md). In the shapes, `...` stands for the axes of the result of"
        " `define`, such as the batch. The axes of one element of the loss are the last ones, so"
        " words take negative axes. Arguments of one word broadcast with each other."
    ).markdown()
    yield "## Operators"
    yield "`+` `-` `*` `/` `**` `@` `<` `<=` `>` `>=` `==` `!=` `x[..., i]`"
    yield from _described(inspect.getdoc(Number) or "")
    for heading, module in THEMES.items():
        yield f"## {heading}"
        for name in sorted(of_theme(module)):
            word = getattr(words, name)
            yield f"### `{signature(word)}`"
            yield from _described(inspect.getdoc(word) or "")
    yield "## Roles"
    yield Prose(
        "Each tensor of a `Form` has one of these [roles](custom-losses.md#roles). They are in"
        " `lossspec.spec`."
    ).markdown()
    rows = tuple((f"`{role.__name__}`", _numbers(role), _gradient(role)) for role in roles())
    yield Table(("role", "numbers", "gradient"), rows).markdown()


def roles() -> list[type[Role]]:
    """Return the roles that `lossspec.spec` offers, by name."""
    offered = (getattr(spec, name) for name in sorted(spec.__all__))
    kinds = (each for each in offered if isinstance(each, type) and issubclass(each, Role))
    return [kind for kind in kinds if kind is not Role]


def _numbers(role: type[Role]) -> str:
    """Return the first paragraph of the docstring of a role."""
    return " ".join((inspect.getdoc(role) or "").partition("\n\n")[0].split())


def _gradient(role: type[Role]) -> str:
    return "yes" if role.differentiable and not role.integer else "no"


def of_theme(module: ModuleType) -> set[str]:
    """Return the names of the words that a module of `lossspec.maths` defines."""
    return {name for name in words.__all__ if hasattr(module, name) and _home(name) is module}


def signature(word: Callable[..., Any]) -> str:
    """Return a word with its parameters and their defaults, without their types."""
    function = getattr(word, "fun", word)  # autograd hides the function of a primitive
    found = inspect.signature(function)
    bare = [p.replace(annotation=p.empty) for p in found.parameters.values()]
    return f"{function.__name__}{found.replace(parameters=bare, return_annotation=found.empty)}"


def parts(docstring: str) -> dict[str, str]:
    """Return the description of a docstring as `""`, and its other parts by their names."""
    pattern = rf"^({'|'.join(_PARTS)}|Attributes|Raises):"
    first, *more = re.split(pattern, docstring, flags=re.MULTILINE)
    return {"": first.strip()} | {
        name: text.strip() for name, text in zip(more[::2], more[1::2], strict=True)
    }


def _home(name: str) -> ModuleType | None:
    word = getattr(words, name)
    function = getattr(word, "fun", word)
    return inspect.getmodule(function) if callable(function) else None


def _described(docstring: str) -> Iterator[str]:
    found = parts(docstring)
    for paragraph in found[""].split("\n\n"):
        yield Prose(paragraph).markdown()
    items = [
        f"`{name}`: {text}"
        for name, text in re.findall(r"^ *\*?(\w+): (.*(?:\n {8}.*)*)", found.get("Args", ""), re.M)
    ]
    items += [f"{name}: {found[name]}" for name in _PARTS if name != "Args" and name in found]
    yield Bullets(tuple(items)).markdown()
