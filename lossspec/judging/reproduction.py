"""A deviation as a script that needs torch and the implementation, and nothing of lossspec."""

from __future__ import annotations

import math
import pprint
from typing import Any

import numpy as np
import torch

from lossspec.cases.case import Case
from lossspec.clauses.trial import Deviation
from lossspec.dtypes import dtype_name
from lossspec.execution import files
from lossspec.execution.call import argument, keywords, owned
from lossspec.execution.call_text import call_text
from lossspec.execution.devices import accelerates
from lossspec.execution.implementation import LossUnderTest
from lossspec.execution.tensors import to_numpy
from lossspec.safe_text import block, docstring

_HEAD = '''\
"""{says}

{title}
Exit status: 0 when the call conforms, 1 when it does not, 2 when the implementation cannot be
imported. A process that ends in the call has another one. Needs torch and the implementation only.
"""

import math
import sys

import torch

sys.stdout.reconfigure(errors="backslashreplace")  # a message may hold what is no character
sys.path.insert(0, "")  # the implementation may lie where the run was started

{find}
device = {device!r}


def tensor(dtype, shape, data, layout="contiguous"):
    """The tensor of a case, bit for bit and stored as it was."""
    data = [float(v) for v in data] if dtype.is_floating_point else data
    x = torch.tensor(data, dtype=dtype, device=device).reshape(shape)
    if x.ndim == 0 or x.numel() == 0 or layout == "contiguous":
        return x
    if layout == "permuted":
        order = list(range(x.ndim))[::-1]
        return x.permute(order).contiguous().permute(order)
    filler = 77 if x.is_floating_point() else int(x.max())
    if layout == "sliced":
        wide = x.new_full((*x.shape[:-1], x.shape[-1] * 2 + 1), filler)
        wide[..., 1::2] = x
        return wide[..., 1::2]
    if layout == "pitched":
        wide = x.new_full((*x.shape[:-1], x.shape[-1] + 2), filler)
        wide[..., :-2] = x
        return wide[..., :-2]
    if layout == "offset":
        store = x.new_full((x.numel() + 5,), filler)
        store[3:-2] = x.reshape(-1)
        return store[3:-2].view(x.shape)
    if layout == "expanded":
        return x[:1].expand(x.shape)
    if x.ndim == 4:
        return x.contiguous(memory_format=torch.channels_last)
    return x.contiguous(memory_format=torch.channels_last_3d) if x.ndim == 5 else x


def same_bits(x, y):
    """Whether two tensors hold the same bytes."""
    if x.shape != y.shape or x.dtype != y.dtype:
        return False
    x, y = (t.detach().reshape(-1).view(torch.uint8) for t in (x, y))
    return torch.equal(x, y)


def dense(value):
    """Whether a value is anything but a sparse, nested or meta tensor."""
    odd = isinstance(value, torch.Tensor) and (value.is_nested or value.is_meta)
    return not odd and getattr(value, "layout", torch.strided) is torch.strided


def shown(value):
    """What a terminal can print: no character that would steer it."""
    return "".join(c if c.isprintable() or c == "\\n" else ascii(c)[1:-1] for c in str(value))


def near(got, want, budget):
    """Whether a number is within its budget of the right one; nan and inf must be the same."""
    got = float(got.detach())
    if math.isnan(want) or math.isinf(want):
        return got == want or (math.isnan(got) and math.isnan(want))
    return abs(got - want) <= budget


'''

_FIND = """\
try:
    import {module} as implementation

    implementation = implementation.{expression}
except Exception as error:
    print("the implementation cannot be imported:", repr(error))
    sys.exit(2)
"""

_FIND_FILE = """\
try:
    from importlib.util import module_from_spec, spec_from_file_location
    from pathlib import Path

    file = Path({path!r}).expanduser().resolve()
    sys.path.insert(0, str(file.parent))
    spec = spec_from_file_location({module!r}, file)
    implementation = sys.modules[{module!r}] = module_from_spec(spec)
    spec.loader.exec_module(implementation)
    implementation = implementation.{expression}
except Exception as error:
    print("the implementation cannot be imported:", repr(error))
    sys.exit(2)
"""

_BODY = """\
inputs = {{
{inputs}
}}
for name in {requires}:
    inputs[name].requires_grad_()
before = {{n: x.detach().clone() for n, x in inputs.items() if isinstance(x, torch.Tensor)}}


def construct():
{construct}


def call():
    return {call}


value = error = upstream = None
try:
    target = construct()
    value = call()
    if not dense(value):
        print("a tensor without plain numbers came back")
        value = None
    if isinstance(value, torch.Tensor) and value.requires_grad:
        upstream = {upstream}
        value.backward(upstream.to(value.dtype).expand(value.shape))
except BaseException as raised:  # sys.exit too
    if isinstance(raised, KeyboardInterrupt):
        raise
    error = raised
gradients = {{name: inputs[name].grad for name in {requires}}}
{reshape}
print({what!r})
print("got   ", {got!r})
print("want  ", {want!r})
print("budget", {budget!r})
{cotangent}print("value here:", shown(value))
print("error here:", shown(repr(error)))
try:
    conforms = bool({check})
except Exception as raised:  # there is nothing to compare
    conforms = False
print("conforms" if conforms else "deviates")
sys.exit(0 if conforms else 1)
"""

_COTANGENT = 'print("cotangent (upstream gradient):", upstream)\n'

_OWN = """\
    made = implementation({arguments}){moved}
    for name, path in {own}.items():
        parameter = made.get_parameter(path)
        parameter.data = inputs[name].detach().reshape(parameter.shape)
        inputs[name] = parameter.requires_grad_(inputs[name].requires_grad)
    return made"""

_RESHAPE = """\
for name, shape in {shapes}.items() if error is None else ():
    if gradients[name] is None:  # a parameter that the call makes no use of
        gradients[name] = torch.zeros_like(inputs[name])
    gradients[name] = gradients[name].reshape(shape)
"""


def script(
    under_test: LossUnderTest, case: Case, deviation: Deviation, says: str, device: str
) -> str:
    """The text of the script, for an implementation that an import finds."""
    case = deviation.case or case
    form = under_test.loss.form(case.form)
    roles = under_test.loss.roles(form)
    own = owned(under_test, case)
    replaced = deviation.replaced

    inputs = []
    for name, array in case.tensors.items():
        given = replaced.get(name, array)
        layout = "contiguous" if name in replaced else case.layouts.get(name, "contiguous")
        if isinstance(given, torch.Tensor):
            given = to_numpy(given)
        elif isinstance(given, np.ndarray) and roles[name].scalar:
            given = argument(roles[name], given)
        code = _tensor(given, layout) if isinstance(given, np.ndarray) else _code(given)
        inputs.append(f"    {name!r}: {code},")
    passed = {
        name: f"inputs[{name!r}]" for name in case.tensors if name not in {**form.tensors, **own}
    }
    for name, value in {**keywords(under_test, case, {}), **replaced}.items():
        if name not in case.tensors:
            passed[name] = _code(value)
    extra = [f"{name}={code}" for name, code in passed.items()]
    given = []
    for (name, role), axes in zip(form.tensors.items(), case.shape.inputs, strict=True):
        if role.through is not None:
            along = axes.index(under_test.loss.classes)
            given.append(f"torch.{role.through}(inputs[{name!r}], dim={along})")
        elif name not in own:
            given.append(f"inputs[{name!r}]")
    if under_test.surface == "class":
        movable = isinstance(under_test.target, type) and issubclass(
            under_test.target, torch.nn.Module
        )
        moved = f".to({device!r})" if movable and accelerates(device) else ""
        result = under_test.loss.results.get(case.reduction)
        call = f"target({', '.join(given)})" + (f".{result}" if result else "")
        construct = f"    return subject({', '.join(extra)}){moved}"
        if own:
            construct = _OWN.format(
                arguments=", ".join(extra), moved=moved, own=pprint.pformat(own)
            )
    else:
        call = f"target({', '.join([*given, *extra])})"
        construct = "    return subject"
    requires = [n for n in case.requires_grad if n not in replaced]
    shapes = {name: case.tensors[name].shape for name in own if name in requires}
    text = call_text(under_test, case, replaced, backward=deviation.backward)
    title = "\n".join(f"    {line[:400]}" for line in docstring(text).split("\n"))
    return _HEAD.format(
        says=docstring(says),
        title=title,
        find=_find(under_test.found),
        device=device,
    ) + _BODY.format(
        inputs="\n".join(inputs),
        requires=pprint.pformat(requires),
        construct=construct,
        call=call,
        upstream=_tensor(
            np.asarray(case.upstream(case.reduction)), case.upstream_layout(case.reduction)
        ),
        reshape=_RESHAPE.format(shapes=pprint.pformat(shapes)) if shapes else "",
        what=block(deviation.what),
        got=deviation.got and block(deviation.got),
        want=deviation.want and block(deviation.want),
        budget=deviation.budget,
        cotangent=_COTANGENT if deviation.backward else "",
        check=deviation.check,
    )


def _find(found: str) -> str:
    """Return the code that imports an implementation from where it was found."""
    module, _, expression = found.rpartition(":")
    if files.parts(module) is None:
        return _FIND.format(module=module, expression=expression)
    name = files.name_of(files.found(module))
    return _FIND_FILE.format(path=module, module=name, expression=expression)


def _code(value: Any) -> str:
    """A value as Python."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"float({str(value)!r})"
    if isinstance(value, tuple | list):
        inside = ", ".join(map(_code, value))
        return f"[{inside}]" if isinstance(value, list) else f"({inside}{',' * (len(value) == 1)})"
    return repr(value)


def _tensor(array: np.ndarray, layout: str) -> str:
    name = dtype_name(array)
    if array.dtype.kind in "iub":
        data = repr(array.ravel().tolist())
    elif array.dtype.kind == "c":
        parts = [f"complex({_code(z.real)}, {_code(z.imag)})" for z in array.ravel().tolist()]
        data = f"[{', '.join(parts)}]"
    else:
        numbers = array.astype(np.float64).ravel().tolist()
        data = "[" + ", ".join(repr(x) if np.isfinite(x) else repr(str(x)) for x in numbers) + "]"
    tail = "" if layout == "contiguous" else f", layout={layout!r}"
    return f"tensor(torch.{name}, {list(array.shape)}, {data}{tail})"
