"""The reproduction script of a deviation, which needs torch and the implementation only."""

from __future__ import annotations

import inspect
import pprint
from typing import Any

import numpy as np
import torch

from lossspec.cases.case import Case
from lossspec.clauses.trial import Deviation
from lossspec.dtypes import dtype_name
from lossspec.execution import files
from lossspec.execution.call import Call, argument
from lossspec.execution.call_text import call_text, python_text
from lossspec.execution.devices import accelerates
from lossspec.execution.implementation import LossUnderTest
from lossspec.execution.layouts import SCRIPTED
from lossspec.execution.tensors import to_numpy
from lossspec.safe_text import block, docstring
from lossspec.spec.loss import place_text

_HEAD = '''\
"""{says}

{title}
Exit status: 0 if the call conforms, 1 if it deviates, 2 if the implementation cannot be imported.
Any other status means that the call ended the process. The script needs torch and the
implementation only.
"""

from __future__ import annotations

import math
import sys

import torch

sys.stdout.reconfigure(errors="backslashreplace")  # error messages may contain invalid characters
sys.path.insert(0, "")  # the implementation may be in the working directory

{find}
device = {device!r}


def tensor(dtype, shape, data, layout="contiguous"):
    """Return a tensor with the given data, stored in the given layout."""
    data = [float(v) for v in data] if dtype.is_floating_point else data
    return laid_out(torch.tensor(data, dtype=dtype, device=device).reshape(shape), layout)


{stored}


def shown(value):
    """Return a value as text, with control characters escaped."""
    return "".join(c if c.isprintable() or c == "\\n" else ascii(c)[1:-1] for c in str(value))


def near(got, want, budget):
    """Return whether a number is within the budget; if NaN or inf is right, it must be equal."""
    got = float(got.detach())
    if math.isnan(want) or math.isinf(want):
        return got == want or (math.isnan(got) and math.isnan(want))
    return abs(got - want) <= budget


'''

_FIND = """\
try:
    from importlib import import_module

    implementation = import_module({module!r}).{expression}
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
    if without_numbers(value):
        print(f"the call returned a {{without_numbers(value)}} tensor, which has no plain numbers")
        value = None
    if isinstance(value, torch.Tensor) and value.requires_grad:
        upstream = {upstream}
        value.backward(upstream.to(value.dtype).expand(value.shape))
except BaseException as raised:  # includes SystemExit
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
except Exception as raised:  # no result can be compared
    conforms = False
print("conforms" if conforms else "deviates")
sys.exit(0 if conforms else 1)
"""

_COTANGENT = 'print("cotangent:", upstream)\n'

_OWN = """\
    made = implementation({arguments}){moved}
    for name, path in {own}.items():
        parameter = made.get_parameter(path)
        parameter.data = inputs[name].detach().reshape(parameter.shape)
        inputs[name] = parameter.requires_grad_(inputs[name].requires_grad)
    return made"""

_RESHAPE = """\
for name, shape in {shapes}.items() if error is None else ():
    if gradients[name] is None:  # the call does not use this parameter
        gradients[name] = torch.zeros_like(inputs[name])
    gradients[name] = gradients[name].reshape(shape)
"""


def script(
    under_test: LossUnderTest, case: Case, deviation: Deviation, says: str, device: str
) -> str:
    """Return the text of the script.

    Args:
        under_test: The implementation of the loss, which a script can import.
        case: The case that deviates.
        deviation: The deviation.
        says: The sentence of the clause.
        device: The device of the tensors.
    """
    call = Call.of(under_test, deviation.case or case, deviation.replaced)
    case, requires = call.case, [*call.differentiated]
    construct, expression = _construct(call, device), _expression(call)
    shapes = {name: case.tensors[name].shape for name in call.owned if name in requires}
    text = call_text(
        under_test, case, call.replaced, backward=deviation.backward, graph=deviation.graph
    )
    title = "\n".join(f"    {line[:400]}" for line in docstring(text).split("\n"))
    return _HEAD.format(
        says=docstring(says),
        title=title,
        find=_find(under_test.found),
        device=device,
        stored="\n\n".join(inspect.getsource(function) for function in SCRIPTED).rstrip(),
    ) + _BODY.format(
        inputs="\n".join(_inputs(call)),
        requires=pprint.pformat(requires),
        construct=construct,
        call=expression,
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


def _inputs(call: Call) -> list[str]:
    """Return the lines of code that create the tensors of a call."""
    lines, roles = [], call.roles
    for name, array in call.case.tensors.items():
        given: Any = call.replaced.get(name, array)
        own = name not in call.replaced
        layout = call.case.layouts.get(name, "contiguous") if own else "contiguous"
        if isinstance(given, torch.Tensor):
            given = to_numpy(given)
        elif isinstance(given, np.ndarray) and roles[name].scalar:
            given = argument(roles[name], given)
        code = _tensor(given, layout) if isinstance(given, np.ndarray) else python_text(given)
        lines.append(f"    {name!r}: {code},")
    return lines


def _keywords(call: Call) -> list[str]:
    """Return the code of the keyword arguments of a call."""
    tensors = [f"{name}=inputs[{name!r}]" for name in call.tensor_keywords]
    return tensors + [f"{name}={python_text(value)}" for name, value in call.keywords.items()]


def _construct(call: Call, device: str) -> str:
    """Return the body of `construct`, which returns the module or function to call."""
    target, extra = call.under_test.target, ", ".join(_keywords(call))
    if call.under_test.surface == "function":
        return "    return implementation"
    movable = isinstance(target, type) and issubclass(target, torch.nn.Module)
    moved = f".to({device!r})" if movable and accelerates(device) else ""
    if call.owned:
        return _OWN.format(arguments=extra, moved=moved, own=pprint.pformat(dict(call.owned)))
    return f"    return implementation({extra}){moved}"


def _expression(call: Call) -> str:
    """Return the expression that calls the module or function."""
    given = [
        f"inputs[{one.name!r}]"
        if one.through is None
        else f"torch.{one.through}(inputs[{one.name!r}], dim={one.axis})"
        for one in call.positional
    ]
    if call.under_test.surface == "function":
        return f"target({', '.join([*given, *_keywords(call)])}){place_text(call.result)}"
    return f"target({', '.join(given)}){place_text(call.result)}"


def _find(found: str) -> str:
    """Return the code that imports an implementation from its module or file."""
    module, _, expression = found.rpartition(":")
    if files.parts(module) is None:
        return _FIND.format(module=module, expression=expression)
    name = files.name_of(files.found(module))
    return _FIND_FILE.format(path=module, module=name, expression=expression)


def _tensor(array: np.ndarray, layout: str) -> str:
    name = dtype_name(array)
    if array.dtype.kind in "iub":
        data = repr(array.ravel().tolist())
    elif array.dtype.kind == "c":
        parts = [
            f"complex({python_text(z.real)}, {python_text(z.imag)})" for z in array.ravel().tolist()
        ]
        data = f"[{', '.join(parts)}]"
    else:
        numbers = array.astype(np.float64).ravel().tolist()
        data = "[" + ", ".join(repr(x) if np.isfinite(x) else repr(str(x)) for x in numbers) + "]"
    tail = "" if layout == "contiguous" else f", layout={layout!r}"
    return f"tensor(torch.{name}, {list(array.shape)}, {data}{tail})"
