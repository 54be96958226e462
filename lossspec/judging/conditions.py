"""The conditions of known deviations: the table `when`, which selects calls."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from lossspec.cases.case import LAYOUTS, UNDRAWN_LAYOUTS, Case
from lossspec.cases.features import FEATURES, features
from lossspec.dtypes import REAL_DTYPES
from lossspec.errors import DeviationsError
from lossspec.nearest import suggestion
from lossspec.spec.loss import Loss
from lossspec.spec.roles import Surface

SURFACES: tuple[Surface, ...] = ("function", "class")
#: The keys of `when` that depend on the implementation and the device.
PLACE = ("version", "device", "surface")
#: The keys of `when` that depend on the case. `options` lists optional tensors that are passed,
#: `absent` optional tensors that are not, and `gradients` tensors that require a gradient.
CASE = ("dtype", "form", "reduction", "options", "absent", "parameters", "gradients", "features")
KEYS = (*PLACE, *CASE)
_COMPARISON = r"\s*(>=|<=|!=|==|<|>)\s*(.+?)\s*"


def in_list(value: Any) -> list[Any]:
    """Return a value as a list, unless it is one."""
    return value if isinstance(value, list) else [value]


def holds(when: Mapping[str, Any], version: str | None, device: str, surface: str) -> bool:
    """Return whether a condition is met by the version, device and surface of a run.

    Args:
        when: The condition.
        version: The version of the implementation, if it is known.
        device: The device, such as `cuda:0`.
        surface: The surface, `function` or `class`.
    """
    kind = device.partition(":")[0]
    return (
        ("version" not in when or in_range(version, when["version"]))
        and kind in in_list(when.get("device", kind))
        and surface in in_list(when.get("surface", surface))
    )


def describes(when: Mapping[str, Any], case: Case) -> bool:
    """Return whether a case meets a condition."""
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
    """Return whether the value of a parameter meets a condition.

    Args:
        value: The value of the parameter.
        wanted: The value itself, a comparison such as `>0`, or a list of these. `==` and `!=` also
            compare text.
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
    """Check that a value is allowed as a condition on a parameter.

    Args:
        place: The beginning of the error message.
        wanted: The value, as the file has it.

    Raises:
        DeviationsError: It is neither a plain value, nor a comparison, nor a list of these.
    """
    for one in in_list(wanted):
        if not isinstance(one, bool | int | float | str):
            raise DeviationsError(
                f"{place}: expected a value, text such as '>0', or a list of these, got {one}"
            )
        if not isinstance(one, str) or not re.match(r"\s*[<>]", one):
            continue
        match = re.fullmatch(_COMPARISON, one)
        if match is None or _number(match[2]) is None:
            raise DeviationsError(
                f"{place}: expected a comparison such as '>0' or '<=0.5', got {one!r}"
            )


def in_range(version: str | None, wanted: Any) -> bool:
    """Return whether a version is in a range such as `>=2.4, <2.14`.

    Args:
        version: The version, if it is known. An unknown version counts as 0.0.0.
        wanted: The range, as the file has it.

    Raises:
        DeviationsError: The range cannot be read.
    """
    have = _release(version or "")
    for term in str(wanted).split(","):
        match = re.fullmatch(r"\s*(>=|<=|==|<|>)\s*([\d.]+)\s*", term)
        if match is None:
            raise DeviationsError(
                f"when.version: expected a range such as '>=2.4, <2.14', got {wanted!r}"
            )
        bound = _release(match[2])
        named = match[2].strip(".").count(".") + 1  # ==2.13 includes every 2.13.x
        kept = named if match[1] == "==" else 3
        if not _compare(match[1], have[:kept], bound[:kept]):
            return False
    return True


def _release(version: str) -> tuple[int, ...]:
    """Return the three numbers of the release of a version; zeros if it has none.

    A local suffix such as `+cu130` is ignored. A pre-release or nightly such as
    `2.15.0.dev20261101` counts as its release, because it contains most of its changes.
    """
    release = re.match(r"\s*v?(\d+(?:\.\d+)*)", version)
    numbers = [int(part) for part in release[1].split(".")] if release else []
    return (*numbers, 0, 0, 0)[:3]


def check_condition(place: str, loss: Loss, when: Mapping[str, Any]) -> None:
    """Check the table `when` of a known deviation.

    Args:
        place: The file and the entry, for the error message.
        loss: The spec of the loss that the entry is about.
        when: The table.

    Raises:
        DeviationsError: A key or a value of the table does not exist for this loss.
    """
    known = sorted(KEYS)
    if wrong := sorted(set(when) - {*KEYS}):
        near = suggestion(wrong[0], known)
        raise DeviationsError(f"{place}: unknown keys in when: {', '.join(wrong)}{near}")
    for key, value in when.items():
        if key != "parameters" and not all(isinstance(word, str) for word in in_list(value)):
            raise DeviationsError(
                f"{place}: when.{key} must be text or a list of texts, got {value!r}"
            )
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
                near = suggestion(word, allowed)
                raise DeviationsError(f"{place}: unknown value {word!r} in when.{key}{near}")
    _check_parameters(place, loss, when.get("parameters", {}))
    if "version" in when:
        try:
            in_range(None, when["version"])
        except DeviationsError as error:
            raise DeviationsError(f"{place}: {error}") from None


def _check_parameters(place: str, loss: Loss, parameters: Any) -> None:
    if not isinstance(parameters, Mapping):
        raise DeviationsError(
            f"{place}: when.parameters must be a table such as {{ NAME = '>0' }}, "
            f"got {parameters!r}"
        )
    for name, wanted in parameters.items():
        if name not in loss.parameters:
            near = suggestion(name, list(loss.parameters))
            raise DeviationsError(f"{place}: the loss has no parameter {name!r}{near}")
        check_comparison(f"{place}: when.parameters.{name}", wanted)


def known_features(loss: Loss) -> list[str]:
    """Return every feature that a case of a loss can have."""
    tensors = dict.fromkeys(name for form in loss.forms for name in loss.roles(form))
    return [
        *FEATURES,
        *(f"{axes}-d" for axes in range(9)),
        *(f"with {name}" for name in tensors),
        *(f"{name} {layout}" for name in tensors for layout in (*LAYOUTS[1:], *UNDRAWN_LAYOUTS)),
        *(f"{name} not contiguous" for name in tensors),
        *(f"{name} at an end of its domain" for name in tensors),
        *(f"{name} near 0" for name in tensors),
        *(f"{name} ends early" for name in tensors),
        *(f"{name} holds {value}" for name in tensors for value in (-1, 0, 1)),
        *(f"{name} below {other}" for name in tensors for other in loss.parameters),
    ]
