"""The symptoms of known deviations: the table `shows`, which describes the wrong result.

The table has exactly one of these keys:

- `is`: the returned number, as a word of `NUMBERS`.
- `off`: the upper limit of the error |got - want| ÷ max(1, |want|).
- `factor`: got ÷ want is between 1/factor and factor.
- `shape`: the returned shape, such as `(1)`. `wrong` stands for any wrong shape.
- `raises`: the type of the error that is raised.
- `accepts`: the argument of an invalid call that raises no error.
- `breach`: for anything else, the broken property as the report names it, without numbers.

These keys narrow it further:

- `of`: which number or shape is wrong: `value`, or `gradient of NAME` for the tensor NAME.
- `what`: a part of what the report names as wrong, such as an axis.
- `says`: a part of the message of the error.
- `given`: how the argument is invalid. For a tensor it is a word of `TENSORS`. For a parameter it
  is a comparison such as `<0`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from lossspec.cases.case import Case
from lossspec.clauses.trial import Deviation
from lossspec.errors import DeviationsError
from lossspec.execution.tensors import dtype_of
from lossspec.judging.conditions import check_comparison, in_list, meets
from lossspec.nearest import suggestion
from lossspec.spec.loss import Loss

#: For each symptom, the keys that may narrow it.
SYMPTOMS: Mapping[str, tuple[str, ...]] = {
    "is": ("of", "what"),
    "off": ("of", "what"),
    "factor": ("of", "what"),
    "shape": ("of", "what"),
    "raises": ("says",),
    "accepts": ("given",),
    "breach": (),
}
#: All keys of a `shows`.
KEYS = tuple(dict.fromkeys([*SYMPTOMS, *(key for more in SYMPTOMS.values() for key in more)]))
#: Words for a wrong number. `finite` is any finite number, and `missing` is an absent gradient.
NUMBERS = ("infinite", "nan", "zero", "finite", "missing")
#: Words for an invalid tensor. `more axes` is one with an additional axis, which may broadcast.
TENSORS = ("longer", "more axes", "other numbers", "another dtype")
#: A new entry states the size of the error, as `off`, if it is below this.
MEASURED = 1e-2


def check_symptom(place: str, loss: Loss, shows: Mapping[str, Any]) -> None:
    """Check the table `shows` of a known deviation.

    Args:
        place: The file and the entry, for the error message.
        loss: The spec of the loss that the entry is about.
        shows: The table.

    Raises:
        DeviationsError: A key or a value of the table does not exist, or keys do not fit together.
    """
    for key, value in shows.items():
        if key not in KEYS:
            raise DeviationsError(f"{place}: unknown key {key!r} in shows{suggestion(key, KEYS)}")
        wrong = _wrong_kind(key, value)
        if wrong:
            raise DeviationsError(f"{place}: shows.{key} must be {wrong}, got {value!r}")
    found = [key for key in shows if key in SYMPTOMS]
    if len(found) != 1:
        raise DeviationsError(
            f"{place}: shows must have exactly one of {', '.join(SYMPTOMS)}, "
            f"got {', '.join(found) or 'none'}"
        )
    if strange := [key for key in shows if key not in (found[0], *SYMPTOMS[found[0]])]:
        raise DeviationsError(
            f"{place}: shows.{strange[0]} is not allowed together with shows.{found[0]}"
        )
    roles = [name for form in loss.forms for name in loss.roles(form)]
    arguments = list(dict.fromkeys([*roles, *loss.parameters, "reduction"]))
    words = {
        "is": NUMBERS,
        "of": ["value", *(f"gradient of {name}" for name in dict.fromkeys(roles))],
        "accepts": arguments,
    }
    for key, allowed in words.items():
        for word in in_list(shows.get(key, [])):
            if word not in allowed:
                near = suggestion(word, allowed)
                raise DeviationsError(f"{place}: unknown value {word!r} in shows.{key}{near}")
    if "given" in shows:
        _check_given(place, loss, shows)


def _wrong_kind(key: str, value: Any) -> str | None:
    """Return the kind of value that a key must have; None if the value is of that kind."""
    if key in ("off", "factor"):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        least = 1 if key == "factor" else 0
        good = number and math.isfinite(value) and value > least
        return None if good else f"a number above {least}"
    if key in ("is", "of", "accepts"):
        good = bool(in_list(value)) and all(isinstance(word, str) for word in in_list(value))
        return None if good else "text or a list of texts"
    if key == "given" and isinstance(value, int | float):
        return None
    return None if isinstance(value, str) and value.strip() else "text"


def _check_given(place: str, loss: Loss, shows: Mapping[str, Any]) -> None:
    """Check the key `given` of a table `shows`.

    Args:
        place: The file and the entry, for the error message.
        loss: The spec of the loss that the entry is about.
        shows: The table.

    Raises:
        DeviationsError: `accepts` names several arguments, or `given` does not fit the argument.
    """
    names, given = in_list(shows["accepts"]), shows["given"]
    if len(names) != 1:
        raise DeviationsError(
            f"{place}: shows.given needs exactly one argument in shows.accepts, got {names}"
        )
    if names[0] in loss.parameters or names[0] == "reduction":
        check_comparison(f"{place}: shows.given", given)
    elif given not in TENSORS:
        near = suggestion(str(given), TENSORS)
        raise DeviationsError(f"{place}: unknown value {given!r} in shows.given{near}")


def shown(shows: Mapping[str, Any], case: Case, deviation: Deviation) -> bool:
    """Return whether a deviation of a case has a symptom."""
    if "of" in shows and _subject(deviation) not in in_list(shows["of"]):
        return False
    if shows.get("what", "") not in deviation.what:
        return False
    if "is" in shows:
        return not set(_numbers(deviation)).isdisjoint(in_list(shows["is"]))
    if "off" in shows:
        return bool(_off(deviation) <= shows["off"])
    if "factor" in shows:
        return bool(1 / shows["factor"] <= _ratio(deviation) <= shows["factor"])
    if "shape" in shows:
        came = deviation.shapes and _written(deviation.shapes[0])
        return came is not None and shows["shape"] in ("wrong", came)
    if "raises" in shows:
        kind, text = deviation.raised or ("", "")
        return kind == shows["raises"] and shows.get("says", "") in text
    if "accepts" in shows:
        return _accepts(shows, case, deviation)
    return bool(shows["breach"] == deviation.kind)


def _accepts(shows: Mapping[str, Any], case: Case, deviation: Deviation) -> bool:
    """Return whether an invalid call that raised no error matches `accepts` and `given`."""
    if not deviation.accepted or set(deviation.replaced) != {*in_list(shows["accepts"])}:
        return False
    if "given" not in shows:
        return True
    ((name, value),) = deviation.replaced.items()
    if isinstance(value, torch.Tensor) or name in case.tensors:
        return shows["given"] in _changes(case.tensors.get(name), value)
    return meets(value, shows["given"])


def _changes(before: np.ndarray | None, given: Any) -> Iterator[str]:
    """Yield the word of `TENSORS` for the difference between an invalid and the valid tensor."""
    if before is None or not isinstance(given, torch.Tensor):
        return
    old, new = before.shape, tuple(given.shape)
    if len(new) == len(old) and new != old:
        yield "longer"
    elif len(new) > len(old):
        yield "more axes"
    elif dtype_of(given) != str(before.dtype):
        yield "another dtype"
    else:
        yield "other numbers"


def symptom_of(case: Case, deviation: Deviation) -> dict[str, Any]:
    """Return the table `shows` for a new entry about a deviation, which a person may narrow."""
    if deviation.raised is not None:
        return {"raises": deviation.raised[0]}
    if deviation.accepted and deviation.replaced:
        names = list(deviation.replaced)
        shows: dict[str, Any] = {"accepts": names if len(names) > 1 else names[0]}
        if len(names) == 1:
            shows |= _given(case, names[0], deviation.replaced[names[0]])
        return shows
    if deviation.shapes is not None:
        return {"shape": "wrong", "of": _subject(deviation)}
    off = _off(deviation)
    if 0 < off < MEASURED:
        return {"off": float(f"1e{math.ceil(math.log10(off)) + 1}"), "of": _subject(deviation)}
    numbers = _numbers(deviation)
    if numbers:
        return {"is": numbers[-1], "of": _subject(deviation)}
    return {"breach": deviation.kind}


def _given(case: Case, name: str, value: Any) -> dict[str, Any]:
    """Return the key `given` for an invalid argument, or nothing if no word describes it."""
    if isinstance(value, torch.Tensor):
        word = next(_changes(case.tensors.get(name), value), None)
        return {} if word is None else {"given": word}
    return {"given": value} if isinstance(value, bool | int | float | str) and value != "" else {}


def _subject(deviation: Deviation) -> str:
    name = deviation.gradient_of
    return "value" if name is None else f"gradient of {name}"


def _numbers(deviation: Deviation) -> Sequence[str]:
    """Return the words of `NUMBERS` for the returned number, the most general one last."""
    if deviation.missing:
        return ["missing"]
    if deviation.numbers is None:
        return []
    got, want = deviation.numbers
    if math.isnan(got):
        return ["nan"]
    if math.isinf(got):
        return ["infinite"]
    return ["zero", "finite"] if got == 0 and want != 0 else ["finite"]


def _off(deviation: Deviation) -> float:
    """Return the error of the number, |got - want| ÷ max(1, |want|); infinite if unknown."""
    got, want = deviation.numbers or (math.nan, math.nan)
    if not (math.isfinite(got) and math.isfinite(want)):
        return math.inf
    return abs(got - want) / max(1.0, abs(want))


def _ratio(deviation: Deviation) -> float:
    """Return got ÷ want; 0 if one of them is not finite or `want` is 0."""
    got, want = deviation.numbers or (math.nan, math.nan)
    if not (math.isfinite(got) and math.isfinite(want)) or want == 0:
        return 0.0
    return got / want


def _written(shape: Sequence[int]) -> str:
    return re.sub(r",\)$", ")", str(tuple(int(size) for size in shape)))
