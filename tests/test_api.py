"""The Python API: check, parametrize and the cost of the import."""

import dataclasses
import io
import itertools
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

import lossspec
from lossspec import api
from lossspec.errors import DeviceError, UnknownName
from lossspec.spec.catalogue import find

FEW = ["accepts", "result-shape", "value"]


def halved(input, target, weight=None, reduction="mean"):
    return F.mse_loss(input, target, weight=weight, reduction=reduction) / 2


def test_a_correct_function_conforms():
    cells = lossspec.check("huber_loss", F.huber_loss, profile="quick", clauses=FEW)
    assert {cell.id: str(cell.verdict) for cell in cells} == {
        f"huber_loss/{clause}[function-cpu]": "conforms" for clause in FEW
    }
    assert all(30 < cell.examples <= 60 for cell in cells)


def test_a_wrong_function_deviates():
    cells = lossspec.check("MSELoss", halved, profile="quick", clauses=FEW)
    (wrong,) = [cell for cell in cells if cell.verdict.fails]
    assert (wrong.id, wrong.verdict) == ("mse_loss/value[function-cpu]", "deviates")
    assert wrong.case["tensors"]["input"]["shape"] == []
    # An object that no import finds cannot be repeated by a command or a script.
    assert (wrong.repeat, wrong.script) == (None, None)


def test_the_incorrect_one_of_two_related_calls_is_reported():
    def forgets_further_axes(input, target, weight=None, ignore_index=-100, reduction="mean"):
        wrong = 1.5 if input.ndim > 2 and reduction != "none" else 1.0
        kinds = {"weight": weight, "ignore_index": ignore_index, "reduction": reduction}
        return wrong * F.nll_loss(input, target, **kinds)

    (cell,) = lossspec.check(
        "nll_loss", forgets_further_axes, profile="quick", clauses=["further-axes-are-samples"]
    )
    assert (cell.verdict, cell.reason[:24]) == ("deviates", "the result compared with")
    assert len(cell.case["tensors"]["input"]["shape"]) > 2
    assert float(cell.got) == pytest.approx(1.5 * float(cell.want), rel=0.02)


def test_a_class_is_judged_on_the_class_surface():
    cells = lossspec.check("mse_loss", torch.nn.MSELoss, profile="quick", clauses=FEW)
    assert {cell.surface for cell in cells} == {"class"}
    assert {str(cell.verdict) for cell in cells} == {"conforms"}


def test_a_custom_spec_can_be_checked():
    def define(input, target):
        return (input - target) ** 2 / 2

    own = dataclasses.replace(
        find("mse_loss"),
        name="half_squared_error",
        module=None,
        define=define,
        options={},
        examples=(),
        forms=(dataclasses.replace(find("mse_loss").forms[0], divisor=None),),
    )

    def right(input, target, reduction="mean"):
        halves = F.mse_loss(input, target, reduction="none") / 2
        return halves if reduction == "none" else getattr(halves, reduction)()

    for target, verdicts in ((right, {"conforms"}), (F.mse_loss, {"conforms", "deviates"})):
        cells = lossspec.check(
            own, target, profile="quick", clauses=["accepts", "half_squared_error/value"]
        )
        assert {cell.loss for cell in cells} == {"half_squared_error"}
        assert {str(cell.verdict) for cell in cells} == verdicts


def test_check_uses_the_given_dtypes_and_seed():
    def value(**more) -> tuple:
        (cell,) = lossspec.check("l1_loss", F.l1_loss, clauses=["value"], profile="quick", **more)
        return cell.dtypes, cell.worst

    assert value(dtypes=["float64"])[0] == value(dtypes="float64")[0] == ("float64",)
    assert value(seed=1) == value(seed=1) != value(seed=2)


@pytest.mark.parametrize(
    ("arguments", "more", "kind", "message"),
    [
        (("l2_loss", halved), {}, UnknownName, "unknown loss 'l2_loss'; did you mean l1_loss, "),
        (("l1_loss", 3), {}, TypeError, "target takes a function or a class, got 3"),
        (("l1_loss", halved), {"profile": "fast"}, UnknownName, "unknown profile 'fast'; known: q"),
        (
            ("l1_loss", halved),
            {"clauses": ["nice"]},
            UnknownName,
            "unknown clause 'nice'; the nearest of ",
        ),
        (("l1_loss", halved), {"dtypes": ["int8"]}, UnknownName, "unknown dtype 'int8'; known: "),
        (("l1_loss", halved), {"device": "zpu"}, DeviceError, "device zpu: not a torch device"),
        (("l1_loss", halved), {"seed": -1}, ValueError, "seed takes a whole number of 0 or more"),
        (
            ("l1_loss", halved),
            {"seed": "x"},
            ValueError,
            "seed takes a whole number of 0 or more",
        ),
        (
            ("l1_loss", halved),
            {"clauses": "nice"},
            UnknownName,
            "unknown clause 'nice'; the nearest of ",
        ),
        (
            ("l1_loss", halved),
            {"clauses": ["ignored-gradient"]},
            ValueError,
            "nothing to judge: no selected clause (ignored-gradient) applies to l1_loss",
        ),
    ],
)
def test_invalid_arguments_raise_a_clear_error(arguments, more, kind, message):
    with pytest.raises(kind) as caught:
        lossspec.check(*arguments, **more)
    assert str(caught.value).startswith(message)


def test_an_implementation_without_the_loss_raises_an_error():
    with pytest.raises(ValueError, match=r"^nothing to judge: mine has no l1_loss$"):
        lossspec.parametrize(lossspec.Implementation("mine"), losses=["l1_loss"])


def test_a_class_is_refused_for_a_function_only_spec():
    own = dataclasses.replace(find("l1_loss"), name="own", module=None)
    with pytest.raises(TypeError, match="own is specified as a function only, got the class L1L"):
        lossspec.check(own, torch.nn.L1Loss)


def test_parametrize_gives_another_suite_one_test_per_cell(workplace):
    workplace.write(
        mine="""
            from torch.nn import functional as F
            from torch.nn.functional import l1_loss

            def mse_loss(input, target, reduction="mean"):
                return F.mse_loss(input, target, reduction=reduction) / 2
        """,
        test_mine="""
            import lossspec

            LOSSES = ["l1_loss", "mse_loss"]

            @lossspec.parametrize("mine", losses=LOSSES, clauses=["value", "accepts"])
            def test_conformance(judge):
                record = judge()
                assert record.examples > 20
        """,
    )
    workplace.path.joinpath("pytest.ini").write_text("[pytest]\nstrict_markers = true\n")
    words = ["-q", "-p", "no:cacheprovider", "-p", "no:faulthandler", "-p", "no:xdist"]
    result = workplace.within(lambda: pytest.main(words))
    assert result.status == 1, result.out
    text = "\n".join(result.out)
    assert "1 failed, 3 passed" in result.out[-1]
    assert "FAILED test_mine.py::test_conformance[mse_loss/value[function-cpu]]" in text
    assert "  The value differs from the definition's by no more than the error budget." in text
    assert "judge = <judge of mine:mse_loss/value[function-cpu]>" in text
    assert "  repeat:  lossspec run mine --loss=mse_loss --clause=value" in text


def test_parametrize_accepts_an_implementation_object():
    mine = lossspec.Implementation("mine", {"l1_loss": F.l1_loss})
    mark = lossspec.parametrize(mine, clauses=["result-shape"]).mark
    names, parameters = mark.args
    assert (names, [p.id for p in parameters]) == ("judge", ["l1_loss/result-shape[function-cpu]"])
    (judge,) = parameters[0].values
    assert judge().verdict == "conforms"


def test_parametrize_refuses_unknown_names_and_types():
    with pytest.raises(UnknownName, match="unknown loss 'l2_loss'"):
        lossspec.parametrize("torch.nn", losses=["l2_loss"])
    with pytest.raises(ValueError, match="--impl nosuch: no entry point of that name"):
        lossspec.parametrize("nosuch")
    with pytest.raises(TypeError, match="parametrize takes the name of an implementation or a "):
        lossspec.parametrize(halved)


def test_every_public_name_exists():
    assert all(getattr(lossspec, name) is not None for name in lossspec.__all__)
    with pytest.raises(AttributeError, match="module 'lossspec' has no attribute 'nosuch'"):
        lossspec.nosuch  # noqa: B018


def test_importing_lossspec_does_not_import_torch():
    program = "import lossspec, sys; lossspec.Report; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"


class Scaled(torch.nn.Module):
    """A correct loss in a class with an option."""

    def __init__(self, reduction="mean"):
        super().__init__()
        self.reduction = reduction

    def forward(self, input, target):
        return F.mse_loss(input, target, reduction=self.reduction)


def test_an_instance_is_judged_as_it_was_constructed():
    cells = lossspec.check("mse_loss", Scaled(), profile="quick", clauses=FEW)
    assert {(cell.surface, str(cell.verdict)) for cell in cells} == {("function", "conforms")}


PLAIN = [loss for loss in lossspec.catalogue().values() if loss.constructor is None]


@pytest.mark.parametrize("loss", PLAIN, ids=lambda loss: loss.name)
def test_every_default_instance_of_a_torch_class_is_judged(loss):
    instance = getattr(torch.nn, loss.module)()
    (cell,) = lossspec.check(loss, instance, profile="quick", clauses=["accepts"])
    assert cell.verdict in ("conforms", "known")


@pytest.mark.parametrize(
    ("loss", "instance", "option"),
    [
        (
            "mse_loss",
            Scaled("sum"),
            "Scaled with reduction='sum' instead of 'mean'; pass the class Scaled, which is then ",
        ),
        ("huber_loss", torch.nn.HuberLoss(delta=2.0), "HuberLoss with delta=2.0 instead of 1.0"),
        ("nll_loss", torch.nn.NLLLoss(torch.ones(3)), "NLLLoss with weight=tensor([1., 1., 1.]) "),
        (
            "triplet_margin_with_distance_loss",
            torch.nn.TripletMarginWithDistanceLoss(
                distance_function=torch.nn.PairwiseDistance(p=1.0)
            ),
            "TripletMarginWithDistanceLoss with distance_function=PairwiseDistance()",
        ),
        (
            "adaptive_log_softmax_with_loss",
            torch.nn.AdaptiveLogSoftmaxWithLoss(4, 6, [2]),
            "AdaptiveLogSoftmaxWithLoss; pass the class AdaptiveLogSoftmaxWithLoss, which is then ",
        ),
    ],
)
def test_an_instance_with_non_default_options_is_refused(loss, instance, option):
    with pytest.raises(TypeError) as caught:
        lossspec.check(loss, instance, profile="quick")
    assert str(caught.value).startswith("target takes ")
    assert f", got an instance of {option}" in str(caught.value)
    assert str(caught.value).partition("; pass the class ")[2]


def test_a_name_as_the_target_is_refused():
    with pytest.raises(TypeError, match=r"got the name 'mylib'; lossspec\.parametrize and"):
        lossspec.check("mse_loss", "mylib")


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self):
        return True


@pytest.fixture
def attended(monkeypatch):
    """Simulate an interactive session without a delay between progress updates."""
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr(api._ProgressLine, "WAIT", 0.0)
    return monkeypatch


def shown(monkeypatch, stream) -> str:
    """Return what a short check writes to standard error."""
    monkeypatch.setattr(sys, "stderr", stream)
    lossspec.check("mse_loss", halved, profile="quick", clauses=["value"])
    return stream.getvalue()


def test_progress_is_shown_in_a_terminal(attended):
    attended.setattr(api.time, "monotonic", itertools.count().__next__)
    text = shown(attended, Terminal())
    first, *updates, last, blank, end = text.split("\r")
    assert (first, end) == ("", "")
    assert re.fullmatch(r"mse_loss: 0 of \d+ cases, 1 s", updates[0])
    assert any(re.match(r"mse_loss: \d of \d+ cases, 1 deviation, \d+ s", line) for line in updates)
    assert re.match(r"mse_loss: (\d+) of \1 cases, 1 deviation, \d+ s", last)
    assert (blank.strip(), len(blank) >= len(last.rstrip())) == ("", True)


def test_progress_is_shown_in_a_notebook(attended):
    notebook = SimpleNamespace(get_ipython=lambda: "a shell")
    attended.setitem(sys.modules, "IPython", notebook)
    assert "\rmse_loss: " in shown(attended, io.StringIO())
    notebook.get_ipython = lambda: None
    assert shown(attended, io.StringIO()) == ""


def test_no_progress_is_shown_in_ci_or_to_a_file(attended):
    attended.setenv("CI", "true")
    assert shown(attended, Terminal()) == ""
    attended.delenv("CI")
    assert shown(attended, io.StringIO()) == ""


def test_a_closed_terminal_does_not_stop_a_check(attended):
    stream = Terminal()
    stream.close()
    attended.setattr(sys, "stderr", SimpleNamespace(isatty=lambda: True, write=stream.write))
    (cell,) = lossspec.check("mse_loss", halved, profile="quick", clauses=["value"])
    assert cell.verdict == "deviates"


def test_the_progress_line_is_cleared_when_a_check_is_interrupted(attended):
    def interrupted(input, target):
        raise KeyboardInterrupt

    stream = Terminal()
    attended.setattr(sys, "stderr", stream)
    with pytest.raises(KeyboardInterrupt):
        lossspec.check("mse_loss", interrupted, profile="quick", clauses=["value"])
    assert stream.getvalue().endswith("\r")
    assert stream.getvalue().rstrip("\r ").endswith("s")


def test_torch_dtype_and_device_objects_are_accepted():
    words = {"profile": "quick", "clauses": ["value"], "device": torch.device("cpu")}
    for dtypes in (torch.float64, [torch.float64], "float64"):
        (cell,) = lossspec.check("l1_loss", F.l1_loss, dtypes=dtypes, **words)
        assert (cell.dtypes, cell.device) == (("float64",), "cpu")
    with pytest.raises(UnknownName, match="unknown dtype 'int8'"):
        lossspec.check("l1_loss", F.l1_loss, dtypes=[torch.int8])


@pytest.mark.parametrize(
    ("loss", "target", "message"),
    [
        (halved, "mse_loss", "first argument, loss, must be a name or a lossspec.Loss, got <func"),
        ("mse_loss", F, ">; pass torch.nn.functional.mse_loss"),
        ("mse_loss", torch.nn, ">; pass torch.nn.MSELoss"),
        ("mse_loss", torch.ones(()), "target takes a function or a class, got tensor(1.)"),
    ],
)
def test_arguments_of_the_wrong_type_raise_a_specific_error(loss, target, message):
    with pytest.raises(TypeError) as caught:
        lossspec.check(loss, target)
    assert message in str(caught.value)
