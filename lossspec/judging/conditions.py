"""Conditions of known deviations: which calls an entry is about."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from lossspec.cases.case import LAYOUTS, Case
from lossspec.cases.features import FEATURES, features
from lossspec.dtypes import REAL_DTYPES
from lossspec.errors import DeviationsError
from lossspec.nearest import suggestion
from lossspec.spec.loss import Loss
from lossspec.spec.roles import Surface

SURFACES: tuple[Surface, ...] = ("function", "class")
#: What `when` may ask of the place of a run.
PLACE = ("version", "device", "surface")
#: What it may ask of a case. `options`, `absent` : optional tensors that are given, or left out.
#: `gradients` : tensors that require a gradient.
CASE = ("dtype", "form", "reduction", "options", "absent", "parameters", "gradients", "features")
KEYS = (*PLACE, *CASE)
_COMPARISON = r"\s*(>=|<=|!=|==|<|>)\s*(.+?)\s*"


def in_list(value: Any) -> list[Any]:
    """Return a value as a list, unless it is one."""
    return value if isinstance(value, list) else [value]


def holds(when: Mapping[str, Any], version: str | None, device: str, surface: str) -> bool:
    """Return whether a condition is about this version, device and surface."""
    kind = device.partition(":")[0]
    return (
        ("version" not in when or in_range(version, when["version"]))
        and kind in in_list(when.get("device", kind))
        and surface in in_list(when.get("surface", surface))
    )


def describes(when: Mapping[str, Any], case: Case) -> bool:
    """Return whether a case is one of those that a condition is about."""
    wanted = set(in_list(when.get("features", [])))
    given = case.parameters
    return (
        case.dtype in in_list(when.get("dtype", case.dtype))
        and case.form in in_list(when.get("form", case.form))
        and case.reduction in in_list(when.get("reduction", case.reduction))
        and all(name in case.tensors for name in in_list(when.get("options", [])))
        and not any(name in case.tensors for name in in_list(when.get("absent", [])))
        and all(name in case.requires_grad for name in in_list(when.get("gradients", [])))
        and all(
            name in given and meets(given[name], wanted)
            for name, wanted in when.get("parameters", {}).items()
        )
        and (not wanted or wanted <= features(case))
    )


def meets(value: Any, wanted: Any) -> bool:
    """Return whether the value of a parameter is the wanted one, one of several, or in a range.

    Text such as `>0` compares with a number; `!=x` and `==x` with any text.
    """
    if isinstance(wanted, list):
        return any(meets(value, one) for one in wanted)
    match = re.fullmatch(_COMPARISON, wanted) if isinstance(wanted, str) else None
    if match is None:
        same = isinstance(value, bool) is isinstance(wanted, bool)
        return same and bool(value == wanted)
    sign, text = match.groups()
    number = _number(text)
    if number is None or isinstance(value, bool) or not isinstance(value, int | float):
        same = str(value) == text
        return {"==": same, "!=": not same}.get(sign, False)
    return _compare(sign, value, number)


def _compare(sign: str, have: Any, bound: Any) -> bool:
    return bool(
        {
            ">=": have >= bound,
            "<=": have <= bound,
            "==": have == bound,
            "!=": have != bound,
            "<": have < bound,
            ">": have > bound,
        }[sign]
    )


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def check_comparison(place: str, wanted: Any) -> None:
    """Raise DeviationsError unless a value can be compared with `wanted`."""
    for one in in_list(wanted):
        if not isinstance(one, bool | int | float | str):
            raise DeviationsError(f"{place}: takes a value, text such as '>0' or a list, got {one}")
        if not isinstance(one, str) or not re.match(r"\s*[<>]", one):
            continue
        match = re.fullmatch(_COMPARISON, one)
        if match is None or _number(match[2]) is None:
            raise DeviationsError(f"{place}: a comparison reads like '>0' or '<=0.5', got {one!r}")


def in_range(version: str | None, wanted: Any) -> bool:
    """Return whether a version meets a range such as `>=2.4, <2.14`."""
    have = _release(version or "")
    for term in str(wanted).split(","):
        match = re.fullmatch(r"\s*(>=|<=|==|<|>)\s*([\d.]+)\s*", term)
        if match is None:
            raise DeviationsError(f"a version range reads like '>=2.4, <2.14', got {wanted!r}")
        bound = _release(match[2])
        named = match[2].strip(".").count(".") + 1  # ==2.13 is any 2.13.x
        kept = named if match[1] == "==" else 3
        if not _compare(match[1], have[:kept], bound[:kept]):
            return False
    return True


def _release(version: str) -> tuple[int, ...]:
    """The numbers of the release that a version belongs to, or leads to; 0.0.0 where it has none.

    A local suffix (`+cu130`) names a build, not a release. A pre-release or a nightly already holds
    most changes of its release, so it counts as that: `2.15.0.dev20261101` as 2.15.0.
    """
    release = re.match(r"\s*v?(\d+(?:\.\d+)*)", version)
    numbers = [int(part) for part in release[1].split(".")] if release else []
    return (*numbers, 0, 0, 0)[:3]


def check_condition(place: str, loss: Loss, when: Mapping[str, Any]) -> None:
    """Raise DeviationsError unless all words of a `when` are known ones."""
    known = sorted(KEYS)
    if wrong := sorted(set(when) - {*KEYS}):
        near = suggestion(wrong[0], known)
        raise DeviationsError(f"{place}: unknown keys in when {', '.join(wrong)}{near}")
    for key, value in when.items():
        if key != "parameters" and not all(isinstance(word, str) for word in in_list(value)):
            raise DeviationsError(f"{place}: when.{key} takes text or a list of it, got {value!r}")
    tensors = list(dict.fromkeys(name for form in loss.forms for name in loss.roles(form)))
    words = {
        "surface": SURFACES,
        "dtype": (*REAL_DTYPES, "complex64", "complex128"),
        "form": [form.name for form in loss.forms],
        "reduction": loss.reductions,
        "options": list(loss.options),
        "absent": list(loss.options),
        "gradients": tensors,
        "features": known_features(loss),
    }
    for key, allowed in words.items():
        for word in in_list(when.get(key, [])):
            if word not in allowed:
                raise DeviationsError(f"{place}: no {key} {word!r}{suggestion(word, allowed)}")
    _check_parameters(place, loss, when.get("parameters", {}))
    if "version" in when:
        try:
            in_range(None, when["version"])
        except DeviationsError as error:
            raise DeviationsError(f"{place}: {error}") from None


def _check_parameters(place: str, loss: Loss, parameters: Any) -> None:
    if not isinstance(parameters, Mapping):
        raise DeviationsError(
            f"{place}: when.parameters takes a table such as {{ NAME = '>0' }}, got {parameters!r}"
        )
    for name, wanted in parameters.items():
        if name not in loss.parameters:
            near = suggestion(name, list(loss.parameters))
            raise DeviationsError(f"{place}: no parameter {name!r}{near}")
        check_comparison(f"{place}: when.parameters.{name}", wanted)


def known_features(loss: Loss) -> list[str]:
    """Return all that `lossspec.cases.features` may say of a case of a loss."""
    tensors = dict.fromkeys(name for form in loss.forms for name in loss.roles(form))
    return [
        *FEATURES,
        *(f"{axes}-d" for axes in range(9)),
        *(f"with {name}" for name in tensors),
        *(f"{name} {layout}" for name in tensors for layout in LAYOUTS[1:]),
        *(f"{name} not contiguous" for name in tensors),
        *(f"{name} at an end of its domain" for name in tensors),
        *(f"{name} near 0" for name in tensors),
        *(f"{name} ends early" for name in tensors),
        *(f"{name} holds {value}" for name in tensors for value in (-1, 0, 1)),
        *(f"{name} below {other}" for name in tensors for other in loss.parameters),
    ]
