"""A deviation as a script that needs torch and the implementation, and nothing of lossspec."""

from __future__ import annotations

import pprint
from typing import Any

import numpy as np

from lossspec.cases import Case, dtype_name
from lossspec.implementations import Subject
from lossspec.outcome import keywords, written
from lossspec.trial import Deviation

_HEAD = '''\
"""{says}

{title}
Exit status: 0 when the call conforms, 1 when it does not. Needs torch and the implementation only.
"""

import math
import sys

import torch

{find}


def tensor(dtype, shape, data, layout="contiguous"):
    """The tensor of a case, bit for bit and stored as it was."""
    x = torch.tensor([float(v) for v in data] if dtype.is_floating_point else data, dtype=dtype)
    x = x.reshape(shape)
    if x.ndim == 0 or x.numel() == 0 or layout == "contiguous":
        return x
    if layout == "permuted":
        order = list(range(x.ndim))[::-1]
        return x.permute(order).contiguous().permute(order)
    filler = 77 if x.is_floating_point() else int(x.max())
    if layout == "sliced":
        wide = torch.full((*x.shape[:-1], x.shape[-1] * 2 + 1), filler, dtype=x.dtype)
        wide[..., 1::2] = x
        return wide[..., 1::2]
    if layout == "offset":
        store = torch.full((x.numel() + 5,), filler, dtype=x.dtype)
        store[3:-2] = x.reshape(-1)
        return store[3:-2].view(x.shape)
    if layout == "expanded":
        return x[:1].expand(x.shape)
    if x.ndim == 4:
        return x.contiguous(memory_format=torch.channels_last)
    return x.contiguous(memory_format=torch.channels_last_3d) if x.ndim == 5 else x


def same_bits(x, y):
    """Whether two tensors hold the same bytes."""
    return x.detach().numpy(force=True).tobytes() == y.numpy(force=True).tobytes()


def near(got, want, budget):
    """Whether a number is within its budget of the right one; nan and inf must be the same."""
    got = float(got)
    if math.isnan(want) or math.isinf(want):
        return got == want or (math.isnan(got) and math.isnan(want))
    return abs(got - want) <= budget


'''

_BODY = """\
inputs = {tensors}
for name in {requires}:
    inputs[name].requires_grad_()
before = {{name: x.detach().clone() for name, x in inputs.items()}}
value = error = None
try:
    {call}
    if isinstance(value, torch.Tensor) and value.requires_grad:
        upstream = {upstream}
        value.backward(upstream.to(value.dtype).expand(value.shape))
except Exception as raised:
    error = raised
gradients = {{name: inputs[name].grad for name in {requires}}}

print({what!r})
print("got   ", {got!r})
print("want  ", {want!r})
print("budget", {budget!r})
print("value here:", value)
print("error here:", repr(error))
conforms = bool({check})
print("conforms" if conforms else "deviates")
sys.exit(0 if conforms else 1)
"""


def script(subject: Subject, case: Case, deviation: Deviation, says: str) -> str:
    """The text of the script. An implementation is imported by the name it was given by."""
    case = deviation.case or case
    loss = subject.loss
    form = loss.form(case.form)
    name, _, attribute = subject.implementation.partition(":")
    wanted = str(loss.module) if subject.surface == "class" else loss.name
    target = f"subject{'.' + attribute if attribute else ''}"
    find = f"import {name} as subject\n\nsubject = {target}"
    find += f"\nsubject = getattr(subject, {wanted!r}, subject)"
    tensors = {**case.tensors}
    entries = [
        f"    {key!r}: {_tensor(array, case.layouts.get(key, 'contiguous'))},"
        for key, array in tensors.items()
    ]
    names = [key for key in tensors if key not in form.tensors]
    passed = {
        key: value
        for key, value in keywords(subject, case, {}).items()
        if key not in deviation.replaced
    }
    given = ", ".join(f"inputs[{key!r}]" for key in form.tensors)
    extra = [f"{key}=inputs[{key!r}]" for key in names]
    extra += [f"{key}={value!r}" for key, value in passed.items()]
    for key, value in deviation.replaced.items():
        if key in tensors:
            text = _tensor(_numpy(value), "contiguous") if hasattr(value, "shape") else repr(value)
            entries = [
                e if not e.startswith(f"    {key!r}:") else f"    {key!r}: {text}," for e in entries
            ]
        else:
            extra.append(f"{key}={value!r}")
    if subject.surface == "class":
        call = f"value = subject({', '.join(extra)})({given})"
    else:
        call = f"value = subject({', '.join([given, *extra])})"
    upstream = _tensor(np.asarray(case.upstream(case.reduction)), "contiguous")
    title = "\n".join(
        f"    {line[:300]}" for line in written(subject, case, deviation.replaced).split("\n")
    )
    return _HEAD.format(says=says, title=title, find=find) + _BODY.format(
        tensors="{\n" + "\n".join(entries) + "\n}",
        requires=pprint.pformat([k for k in case.requires_grad if k not in deviation.replaced]),
        call=call,
        upstream=upstream,
        what=deviation.what,
        got=deviation.got,
        want=deviation.want,
        budget=deviation.budget,
        check=deviation.check,
    )


def _numpy(value: Any) -> np.ndarray:
    plain = value.detach().cpu()
    return np.asarray(plain.float().numpy() if plain.is_floating_point() else plain.numpy())


def _tensor(array: np.ndarray, layout: str) -> str:
    name = dtype_name(array)
    if array.dtype.kind in "iub":
        data = repr(array.ravel().tolist())
    else:
        numbers = array.astype(np.float64).ravel().tolist()
        data = "[" + ", ".join(repr(x) if np.isfinite(x) else repr(str(x)) for x in numbers) + "]"
    tail = "" if layout == "contiguous" else f", layout={layout!r}"
    return f"tensor(torch.{name}, {list(array.shape)}, {data}{tail})"
