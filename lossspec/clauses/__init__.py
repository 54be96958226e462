"""The contract: one function for each clause, its docstring the sentence that the report prints."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from types import FunctionType
from typing import Literal

from lossspec.clauses.trial import Trial
from lossspec.execution.devices import accelerates
from lossspec.spec.loss import Loss
from lossspec.spec.roles import Surface

#: True when the case could have told right from wrong, False when not, None when it does not apply.
Judgement = bool | None
Place = Literal["processor", "accelerator"]
#: Numbers in all tensors of a small call, beside which one that must raise tells.
SMALL = 200


@dataclass(frozen=True)
class Clause:
    """One checkable sentence of the contract.

    judge : raises `Deviation` when a trial breaks it. applies : whether the spec
    gives it anything to say, for a loss on a surface. only_on : the one kind of device that it is
    about. enough : after this many informative trials it has nothing left to learn; None for never.
    slow : left out of the quick profile. empty : whether it also judges calls on empty tensors.
    once : it is about the loss and not the case that it is handed: one trial is enough, and no
    simpler case shows more. needs : a package without which it cannot be judged. chosen : it costs
    too much to judge the cases of the stream: it is judged on the costly cases, which show every
    option, on so many at least, and a failing one is shrunk by its options alone.
    hazard : its calls must raise, and where they do not they may damage the process. It is judged
    on small calls that work, after all clauses with less of it.
    """

    name: str
    theme: str
    says: str
    judge: Callable[[Trial], Judgement]
    applies: Callable[[Loss, Surface], bool]
    only_on: Place | None = None
    enough: int | None = None
    slow: bool = False
    empty: bool = False
    once: bool = False
    needs: str | None = None
    chosen: int = 0
    hazard: int = 0

    @property
    def lacks(self) -> str | None:
        """Why it cannot be judged here, if it cannot."""
        if self.needs is None or find_spec(self.needs) is not None:
            return None
        return f"{self.name} needs the package {self.needs}, which is not installed"

    def speaks_on(self, device: str) -> bool:
        """Whether it has anything to say of a device."""
        return self.only_on in (None, "accelerator" if accelerates(device) else "processor")


def stateless(loss: Loss, surface: Surface) -> bool:
    """Whether the loss owns no parameters there, so that a call is all in its arguments."""
    return not loss.stateful(surface)


def clause(
    applies: Callable[[Loss, Surface], bool] = lambda loss, surface: True,
    only_on: Place | None = None,
    enough: int | None = None,
    slow: bool = False,
    empty: bool = False,
    once: bool = False,
    needs: str | None = None,
    chosen: int = 0,
    hazard: int = 0,
) -> Callable[[Callable[[Trial], Judgement]], Callable[[Trial], Judgement]]:
    """Make a clause of a function: its name is the id, its docstring the sentence."""

    def register(judge: Callable[[Trial], Judgement]) -> Callable[[Trial], Judgement]:
        judge.clause = Clause(  # type: ignore[attr-defined]  # a mark, as pytest's own are
            name=judge.__name__.replace("_", "-"),
            theme=judge.__module__.rpartition(".")[2],
            says=" ".join((judge.__doc__ or "").split()),
            judge=judge,
            applies=applies,
            only_on=only_on,
            enough=enough,
            slow=slow,
            empty=empty,
            once=once,
            needs=needs,
            chosen=chosen,
            hazard=hazard,
        )
        return judge

    return register


@cache
def clauses() -> Mapping[str, Clause]:
    """Every clause by name, in the order of the themes' files and of the functions in them."""
    found: dict[str, Clause] = {}
    for module in pkgutil.iter_modules(__path__):
        loaded = importlib.import_module(f"{__name__}.{module.name}")
        for thing in vars(loaded).values():
            mark = getattr(thing, "clause", None) if isinstance(thing, FunctionType) else None
            if isinstance(mark, Clause) and thing.__module__ == loaded.__name__:
                if not mark.says or mark.name in found:
                    raise ValueError(f"clause {mark.name!r} needs its own name and a sentence")
                found[mark.name] = mark
    return found
