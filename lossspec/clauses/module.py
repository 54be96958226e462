"""Clauses on the life of a module: copied, pickled, moved, and switched to evaluation."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import torch

from lossspec.clauses import Judgement, clause
from lossspec.outcome import arguments, handed, keywords
from lossspec.spec import Loss, Surface
from lossspec.tensors import same_bits
from lossspec.trial import Deviation, Trial


def _module(loss: Loss, surface: Surface) -> bool:
    return surface == "class" and not loss.stateful(surface)


def _made(trial: Trial) -> tuple[Any, list[Any]] | None:
    """A module for the case with its call's tensors; None for a class that is no nn.Module."""
    if not trial.worked:
        return None
    case = trial.case.with_(requires_grad=())
    tensors = arguments(trial.subject, case, trial.device)
    module = trial.subject.target(**keywords(trial.subject, case, tensors))
    if not isinstance(module, torch.nn.Module):
        return None
    given = handed(trial.subject, case, tensors)
    return module, [given[name] for name in trial.form.tensors]


def _same(trial: Trial, module: Any, given: list[Any], what: str) -> None:
    try:
        got = module(*given)
    except Exception as error:
        text = f"{type(error).__name__}: {str(error)[:200]}"
        raise Deviation(f"{what} raised", text, "the same value", check=None) from None
    want = trial.outcome.value.detach()
    if not isinstance(got, torch.Tensor) or not same_bits(got.detach(), want):
        raise Deviation(what, got, want, check=None)


@clause(_module, enough=20)
def pickled(trial: Trial) -> Judgement:
    """Pickled and read back, or deep-copied, a module gives the same value."""
    made = _made(trial)
    if made is None:
        return None
    module, given = made
    _same(trial, copy.deepcopy(module), given, "a deep copy")
    try:
        data = pickle.dumps(module)
    except (pickle.PicklingError, AttributeError, TypeError):
        return True  # a class that pickle cannot find by name, a local one for instance
    _same(trial, pickle.loads(data), given, "a pickled module")
    return True


@clause(_module, enough=20)
def state_dict(trial: Trial) -> Judgement:
    """A state_dict loads into a module of the same arguments, after a call as well."""
    if "expanded" in trial.case.layouts.values():
        return None  # no number can be copied into a buffer whose elements share memory
    made = _made(trial)
    if made is None:
        return None
    module, given = made
    fresh, _ = _made(trial) or made
    module(*given)
    try:
        fresh.load_state_dict(module.state_dict())
    except Exception as error:
        raise Deviation("loading its state_dict raised", error, "it loads", check=None) from None
    _same(trial, fresh, given, "a module with the loaded state")
    return True


@clause(_module, enough=20)
def evaluation_mode(trial: Trial) -> Judgement:
    """train() and eval() make no difference."""
    made = _made(trial)
    if made is None:
        return None
    module, given = made
    _same(trial, module.eval(), given, "the value in evaluation mode")
    _same(trial, module.train(), given, "the value in training mode")
    return True


@clause(_module, enough=20)
def moved_to_dtype(trial: Trial) -> Judgement:
    """`.to(dtype)` takes the tensors that it was constructed with along."""
    made = _made(trial)
    if made is None or trial.case.dtype not in ("float32", "float64"):
        return None
    module, given = made
    other = torch.float64 if trial.case.dtype == "float32" else torch.float32
    if not trial.holds(str(other).removeprefix("torch.")):
        return None
    _same(trial, module.to(other).to(given[0].dtype), given, "the value after .to and back") if (
        other is torch.float64
    ) else None
    module.to(other)
    moved = [
        x.to(other) if isinstance(x, torch.Tensor) and x.is_floating_point() else x for x in given
    ]
    try:
        got = module(*moved)
    except Exception as error:
        text = f"{type(error).__name__}: {str(error)[:200]}"
        raise Deviation(
            f"the call after .to({other}) raised", text, "a tensor", check=None
        ) from None
    if isinstance(got, torch.Tensor) and got.dtype != other:
        raise Deviation(f"the dtype after .to({other})", got.dtype, other, check=None)
    return True
