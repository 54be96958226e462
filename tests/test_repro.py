"""The printed deviation, and the reproduction script and command that repeat it."""

import json
import re
import runpy
import shlex
import sys
import warnings

import numpy as np
import pytest
import torch

from lossspec.cases.case import Case
from lossspec.cases.features import features
from lossspec.clauses.trial import Deviation
from lossspec.cli import main
from lossspec.execution.call import unsupported_argument
from lossspec.execution.call_text import call_text
from lossspec.execution.implementation import LossUnderTest
from lossspec.execution.loading import load
from lossspec.execution.outcome import perform
from lossspec.execution.tensors import same_bits
from lossspec.judging import reproduction
from lossspec.judging.profiles import PROFILES, Profile
from lossspec.judging.stream import stream
from lossspec.report.files import replace_file
from lossspec.report.records import Report
from lossspec.spec.catalogue import catalogue, find

WRONG = """
    from torch.nn import functional as F

    def nll_loss(input, target, ignore_index=-100, reduction="mean"):
        given = dict(ignore_index=ignore_index)
        if reduction == "mean":
            return F.nll_loss(input, target, **given, reduction="sum") / target.numel()
        return F.nll_loss(input, target, **given, reduction=reduction)
"""
MENDED = "from torch.nn.functional import nll_loss\n"
STORY = r"""
nll_loss/mean-divisor on cpu \(function\) deviates:
  `mean` returns the sum of the losses under `none`, weighted and divided as documented\.

  what:    'mean' of the implementation's own 'none'
  cause:   nll_loss: off by the factor 0\.5 \('mean'\)
  call:    input = tensor\(\[(\[0\.0\], \[-1\.0\]|\[-1\.0\], \[0\.0\])\], dtype=b?float\d\d\)
           target = tensor\(\[(-100, 0|0, -100)\], dtype=int64\)
           nll_loss\(input, target, reduction='mean'\)
  got:     0\.5
  want:    1
  budget:  \d\S+
  repeat:  (lossspec run wrong --loss=nll_loss --clause=mean-divisor --profile=quick --seed=0)
  script:  (reports/wrong/repro/nll_loss-mean-divisor-function-cpu\.py)
"""
WORDS = ("--loss=nll_loss", "--clause=mean-divisor", "--profile=quick", "--seed=0")
SCRIPT = "reports/wrong/repro/nll_loss-mean-divisor-function-cpu.py"


def story(result) -> re.Match:
    """Return the text that a run printed about its only deviation."""
    found = re.search(STORY, "\n".join(result.out) + "\n")
    assert found is not None, result.out
    return found


def ran(script) -> tuple[int, dict]:
    """Run a script in this process and return its exit status and its names."""
    names: dict = {"__name__": "__main__"}
    code = compile(script, "script.py", "exec")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings of torch about the call
        with pytest.raises(SystemExit) as caught:
            exec(code, names)
    return caught.value.code, names


def test_a_planted_defect_is_printed_with_a_working_command(workplace):
    workplace.write(wrong=WRONG)
    result = workplace.run("--impl=wrong", *WORDS)
    assert result.status == 1
    told = story(result)

    program, *command = shlex.split(told[3])
    assert program == "lossspec"
    again = workplace.within(lambda: main([*command, "-p", "no:faulthandler"]))
    assert again.status == 1
    assert story(again)[0] == told[0]

    (cell,) = workplace.artifact("wrong")["cells"]
    assert cell["says"] in told[0]
    assert (cell["got"], cell["want"], cell["repeat"]) == ("0.5", "1", told[3])
    assert f"reports/wrong/{cell['script']}" == told[4] == SCRIPT


def test_the_script_fails_without_lossspec_until_the_defect_is_fixed(workplace):
    workplace.write(wrong=WRONG)
    assert workplace.run("--impl=wrong", *WORDS).status == 1
    alone = f"import runpy, sys; sys.modules['lossspec'] = None; runpy.run_path({SCRIPT!r})"
    result = workplace.apart("-c", alone)
    assert result.status == 1, result.err
    assert result.out[-1] == "deviates"
    assert result.err == []
    workplace.write(wrong=MENDED)
    result = workplace.within(lambda: script_status(workplace.path / SCRIPT))
    assert (result.status, result.out[-1]) == (0, "conforms")


def test_a_script_imports_a_module_whose_name_is_no_identifier(workplace):
    workplace.write(wrong=WRONG)
    (workplace.path / "wrong.py").rename(workplace.path / "wrong-losses.py")
    assert workplace.run("--impl=wrong-losses", *WORDS).status == 1
    script = workplace.path / SCRIPT.replace("wrong", "wrong-losses")
    result = workplace.within(lambda: script_status(script))
    assert (result.status, result.out[-1]) == (1, "deviates")


@pytest.mark.parametrize("module", ["import no_such_module", "other = 0"])
def test_a_script_whose_implementation_cannot_be_imported_is_no_deviation(workplace, module):
    workplace.write(wrong=WRONG)
    assert workplace.run("--impl=wrong", *WORDS).status == 1
    workplace.write(wrong=module)
    result = workplace.apart(SCRIPT)
    assert (result.status, result.err) == (2, [])
    assert result.out[0].startswith("the implementation cannot be imported: ")


def script_status(path) -> int:
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(path), run_name="__main__")
    return caught.value.code


DEFECTS = {
    "accepts": "raise RuntimeError('no')",
    "gradient": "return F.huber_loss(input, target.detach(), **more)",
    "inputs-untouched": "input.detach().numpy(force=True).fill(1) if input.dtype.itemsize > 2 "
    "else input.detach().fill_(1); return F.huber_loss(input, target, **more)",
    "refuses-parameters": "more['delta'] = abs(more.get('delta', 1.0)) + (more.get('delta') == 0); "
    "return F.huber_loss(input, target, **more)",
    "refuses-reductions": "more['reduction'] = more['reduction'] if more.get('reduction') in "
    "('mean', 'sum', 'none') else 'mean'; return F.huber_loss(input, target, **more)",
    "refuses-shapes": "target = target.flatten()[:1].clone() if target.shape != input.shape "
    "else target; return F.huber_loss(input, target.expand(input.shape), **more)",
    "result-dtype": "return F.huber_loss(input, target, **more).double()",
    "result-shape": "return F.huber_loss(input, target, **more)[None]",
    "value": "return F.huber_loss(input, target, **more) * 1.1",
}


@pytest.mark.parametrize("clause", DEFECTS)
def test_the_script_of_every_kind_of_deviation_distinguishes_wrong_from_right(workplace, clause):
    defect = "from torch.nn import functional as F\n\ndef huber_loss(input, target, **more):\n    "
    workplace.write(wrong=defect + DEFECTS[clause])
    words = ("--loss=huber_loss", "--profile=quick", f"--clause={clause}")
    assert workplace.run("--impl=wrong", *words).status == 1
    (script,) = (workplace.path / "reports" / "wrong" / "repro").iterdir()
    for module, status in ((defect + DEFECTS[clause], 1), (RIGHT, 0)):
        workplace.write(wrong=module)
        # Python may mistake a file that is written twice within a second for the first one.
        sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
        got = workplace.within(lambda: script_status(script))
        sys.dont_write_bytecode = before
        assert got.status == status, got.out
        assert got.out[-1] == ("deviates" if status else "conforms")


RIGHT = "from torch.nn.functional import huber_loss"


@pytest.mark.parametrize("name", ["torch.nn", "torch.nn.functional"])
@pytest.mark.parametrize("loss", catalogue().values(), ids=list(catalogue()))
def test_a_script_makes_exactly_the_call_of_its_case(loss, name):
    for under_test in load(name).losses_under_test(loss):
        for solved in stream(loss, Profile("quick", 8, 1), 5):
            if unsupported_argument(under_test, solved.case) is not None:
                continue
            want = perform(under_test, solved.case)
            deviation = Deviation("nothing", check="error is None")
            text = reproduction.script(under_test, solved.case, deviation, "A sentence.", "cpu")
            status, names = ran(text)
            assert status == (0 if want.error is None else 1), names["error"]
            # For an empty batch some losses of torch return uninitialised memory.
            if isinstance(want.value, torch.Tensor) and "empty" not in features(solved.case):
                assert same_bits(names["value"].detach(), want.value.detach())
            for tensor, gradient in want.gradients.items():
                got = names["gradients"][tensor]
                assert (got is None) == (gradient is None)
                assert got is None or same_bits(got, gradient)


def test_a_script_passes_infinity_and_nan():
    (under_test,) = load("torch.nn.functional").losses_under_test(catalogue()["huber_loss"])
    solved = stream(under_test.loss, Profile("quick", 1, 1), 0)[0]
    replaced = {"delta": float("inf"), "reduction": ["mean", float("nan")]}
    deviation = Deviation("nothing", check="error is not None", replaced=replaced)
    text = reproduction.script(under_test, solved.case, deviation, "A sentence.", "cpu")
    assert "delta=float('inf')" in text
    assert "reduction=['mean', float('nan')]" in text
    assert ran(text)[0] == 0


def test_a_script_prints_lone_surrogates_escaped(workplace):
    (under_test,) = load("torch.nn.functional").losses_under_test(catalogue()["huber_loss"])
    solved = stream(under_test.loss, Profile("quick", 1, 1), 0)[0]
    deviation = Deviation("a \udcff", check="error is not None")
    text = reproduction.script(under_test, solved.case, deviation, "A sentence.", "cpu")
    replace_file(workplace.path / "script.py", text)
    result = workplace.apart("script.py")
    assert (result.status, result.err) == (1, [])
    assert result.out[0] == r"a \udcff"


def test_the_call_text_shows_the_passed_arguments():
    loss = find("gaussian_nll_loss")
    under_test = LossUnderTest("mine", loss, "function", torch.nn.functional.gaussian_nll_loss)
    every = (solved.case for solved in stream(loss, PROFILES["standard"], 0))
    case = next(c for c in every if c.form == "one variance")
    case = case.with_(layouts={"target": "sliced"}, omitted=frozenset())
    assert f"var = {float(case.tensors['var'])!r}\n" in call_text(under_test, case)
    assert "target is stored sliced" in call_text(under_test, case)

    given = {"target": torch.tensor([7, -99]), "var": np.array([0.5]), "reduction": "avg"}
    text = call_text(under_test, case, given)
    assert "target = tensor([7, -99], dtype=int64)\n" in text
    assert "var = tensor([0.5], dtype=float64).numpy()\n" in text
    assert "reduction='avg'" in text
    assert "stored" not in text


# === the cotangent ========================================================================

SLOPED = """
    import torch
    from torch.nn import functional as F

    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(ctx, value):
            return value.clone()

        @staticmethod
        def backward(ctx, gradient):
            return 2 * gradient + 1

    def mse_loss(input, target, weight=None, reduction="mean"):
        return Doubled.apply(F.mse_loss(input, target, weight=weight, reduction=reduction))
"""


def test_a_wrong_gradient_is_shown_with_its_cotangent(workplace):
    workplace.write(sloped=SLOPED)
    words = ("--loss=mse_loss", "--clause=gradient", "--profile=quick")
    result = workplace.run("--impl=sloped", *words)
    assert result.status == 1
    report = Report.read(workplace.path / "reports/sloped/conformance.json")
    (cell,) = report.cells
    call = cell.call.splitlines()
    assert call[-2] == "# the cotangent (the gradient that backward receives):"
    found = re.fullmatch(r"value\.backward\(tensor\((.*), dtype=(\w+)\)\)", call[-1])
    case = Case.from_json(cell.case)
    upstream = case.upstream(case.reduction)
    assert found[2] == case.dtype
    assert np.array_equal(np.array(json.loads(found[1])), upstream.astype(float))
    assert any("requires_grad=True" in line for line in call)
    # Computed by hand from the printed call: 2 g + 1 in place of the cotangent g.
    name = case.requires_grad[0]
    printed = {
        line.partition(" = ")[0]: json.loads(re.search(r"tensor\((.*?), dtype", line)[1])
        for line in call
        if re.match(r"\w+ = tensor", line)
    }
    x = torch.tensor(printed["input"], dtype=torch.float64, requires_grad=name == "input")
    y = torch.tensor(printed["target"], dtype=torch.float64, requires_grad=name == "target")
    value = torch.nn.functional.mse_loss(x, y, reduction=case.reduction)
    value.backward(torch.tensor(json.loads(found[1]), dtype=torch.float64).expand(value.shape))
    gradient = (x if name == "input" else y).grad
    assert float(cell.want) == pytest.approx(float(gradient.flatten()[0]), rel=1e-2)

    printed = "\n".join(result.out)
    note = "# the cotangent (the gradient that backward receives):"
    assert f"           {note}\n           value.backward(" in printed
    for name in ("index.html", "summary.md"):
        assert "value.backward(tensor(" in (workplace.path / "reports/sloped" / name).read_text()
    script = (workplace.path / "reports/sloped" / cell.script).read_text()
    assert note in script
    done = workplace.apart(str(workplace.path / "reports/sloped" / cell.script))
    assert done.status == 1
    assert any(line.startswith("cotangent: tensor(") for line in done.out)


def test_a_wrong_value_is_shown_without_a_cotangent(workplace):
    workplace.write(wrong=WRONG)
    assert "backward" not in story(workplace.run("--impl=wrong", *WORDS))[0]
    script = (workplace.path / SCRIPT).read_text()
    assert 'print("cotangent:"' not in script
