"""The command `lossspec expect`: the oracle for tensors in files."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from lossspec.errors import ArgumentError, UnknownName
from lossspec.expectation.agreement import Comparison
from lossspec.expectation.answer import Answer, expect
from lossspec.expectation.files import pick, read
from lossspec.nearest import suggestion
from lossspec.spec.catalogue import find
from lossspec.spec.loss import Loss
from lossspec.spec.parameters import Parameter


def report(options: argparse.Namespace) -> tuple[str, int]:
    """Return the output of the command and its exit status, which is 1 if a number is wrong."""
    loss = find(options.loss)
    positional, named = _tensors(loss, options.tensors)
    answer = expect(
        loss,
        *positional,
        reduction=options.reduction,
        upstream=None if options.upstream is None else _picked(options.upstream),
        computed_in=options.computed_in,
        **named,
        **_parameters(loss, options.param),
    )
    gradients = {
        name: _picked(place)
        for name, place in (_pair(word, "--gradient NAME=FILE") for word in options.gradient)
    }
    if options.against is None:
        if gradients:
            raise ArgumentError("--gradient needs --against FILE, with the value of the same call")
        return _value(answer), 0
    agreement = answer.check(_picked(options.against), gradients)
    lines = [_value(answer), *map(_line, agreement.comparisons)]
    return "\n".join([*lines, "right" if agreement else "wrong"]), 0 if agreement else 1


def _line(comparison: Comparison) -> str:
    return f"{'✓' if comparison else '✗'} {comparison}"


def _value(answer: Answer) -> str:
    value, budget = answer.value, answer.budget
    if not value.ndim:
        return f"{answer.loss.name}: {value.item():.9g}, give or take {budget.item():.2g}"
    finite = value[torch.isfinite(value)]
    span = f", from {finite.min():.6g} to {finite.max():.6g}" if finite.numel() else ""
    return f"{answer.loss.name}: {value.numel():,} numbers of shape {list(value.shape)}{span}"


def _tensors(loss: Loss, words: Sequence[str]) -> tuple[list[Any], dict[str, Any]]:
    """Return the tensors that are passed by position, and those by name."""
    known = [*dict.fromkeys(name for form in loss.forms for name in loss.roles(form))]
    positional: list[Any] = []
    named: dict[str, Any] = {}
    for word in words:
        name, equals, place = word.partition("=")
        if equals and not Path(word).exists():
            if name not in known:
                raise UnknownName(f"tensor of {loss.name}", name, known)
            _add(named, name, _picked(place))
            continue
        path, key = _place(word)
        found = pick(path, key) if key else read(path)
        if isinstance(found, torch.Tensor):
            positional.append(found)
        elif len(found) == 1 and not found.keys() <= {*known}:
            positional.extend(found.values())
        else:
            for name, tensor in found.items():
                if name not in known:
                    raise ArgumentError(
                        f"{path} holds {name!r}, but {loss.name} has no such tensor"
                        f"{suggestion(name, known)}; write FILE:NAME to pass one of several"
                    )
                _add(named, name, tensor)
    return positional, named


def _add(named: dict[str, Any], name: str, tensor: torch.Tensor) -> None:
    if name in named:
        raise ArgumentError(f"the tensor {name} is given twice; give it once")
    named[name] = tensor


def _place(word: str) -> tuple[Path, str]:
    """Split FILE:KEY into the file and the key; the path itself may contain a colon."""
    if Path(word).exists() or ":" not in word:
        return Path(word), ""
    path, _, key = word.rpartition(":")
    return Path(path), key


def _picked(word: str) -> torch.Tensor:
    return pick(*_place(word))


def _pair(word: str, usage: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if not equals or not name or not value:
        raise ArgumentError(f"{word!r}: write {usage}")
    return name, value


def _parameters(loss: Loss, words: Iterable[str]) -> Mapping[str, Any]:
    """Return the parameters by name, parsed to the types of their defaults."""
    given = {}
    for word in words:
        name, text = _pair(word, "--param NAME=VALUE")
        if name not in loss.parameters:
            raise UnknownName(f"parameter of {loss.name}", name, list(loss.parameters))
        given[name] = _parsed(name, loss.parameters[name], text)
    return given


def _parsed(name: str, parameter: Parameter, text: str) -> Any:
    default = parameter.default
    if isinstance(default, bool):
        values = {"true": True, "false": False}
        if text.lower() not in values:
            raise ArgumentError(f"{name} takes true or false, got {text!r}")
        return values[text.lower()]
    if not isinstance(default, int | float):
        return None if text == "None" else text
    try:
        return type(default)(text)
    except ValueError:
        kind = "a whole number" if isinstance(default, int) else "a number"
        raise ArgumentError(f"{name} takes {kind}, got {text!r}") from None
