"""Causes: cells with one cause form one block, and a block hides no other cause."""

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

import lossspec
from lossspec.cases.case import Case
from lossspec.clauses.trial import Deviation
from lossspec.judging.cause import cause_of
from lossspec.report.causes import Block, blocks
from lossspec.report.records import Cell, Report, cell_id
from lossspec.spec.catalogue import catalogue

SAMPLE = Report.read(Path(__file__).parent / "data" / "conformance.json").cells[0]
HUBER = catalogue()["huber_loss"]
MEANT = "float16: the mean is infinite where the definition is finite"
NARROW = "float64: as if computed in float32"


def checked(target, *clauses, loss="huber_loss"):
    return lossspec.check(loss, target, clauses=clauses or None, profile="quick")


def failing(cells):
    return sorted(cell.clause for cell in cells if cell.verdict.fails)


def clauses_of(block):
    return sorted(cell.clause for cell in (block.shown, *block.others))


def causes(cells):
    return {block.shown.cause: clauses_of(block) for block in blocks(cells)}


def in_float32(function):
    """Wrap a loss so that float64 is computed in float32 and returned as float64."""

    def computed(input, target, reduction="mean", **parameters):
        wide = input.dtype == torch.float64
        if wide:
            input, target = input.float(), target.float()
        value = function(input, target, reduction=reduction, **parameters)
        return value.double() if wide else value

    return computed


# === causes in implementations ================================================================


def test_a_silenced_warning_is_not_a_missing_refusal():
    def silencing(input, target, reduction="mean", delta=1.0, weight=None):
        warnings.simplefilter("ignore")
        return functional.huber_loss(input, target, reduction, delta, weight)

    def unwarned(input, target, reduction="mean", delta=1.0, weight=None):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return functional.huber_loss(input, target, reduction, delta, weight)

    clauses = ("process-state", "refuses-shapes")
    assert failing(checked(silencing, *clauses)) == ["process-state"]
    assert failing(checked(unwarned, *clauses)) == ["refuses-shapes"]


def test_an_error_in_every_call_is_one_block_shown_by_accepts():
    def broken(input, target, reduction="mean", delta=1.0):
        return functional.huber_loss(input, target, reduction=reduction, size=3)

    cells = checked(broken)
    (block,) = blocks(cells)
    assert block.count == len(failing(cells)) == len(cells) > 20
    assert block.shown.clause == "accepts"
    assert block.shown.cause == (
        "raises TypeError: huber_loss() got an unexpected keyword argument 'size'"
    )


def test_a_float16_mean_that_overflows_is_one_block():
    def summed(input, target, reduction="mean", delta=1.0):
        loss = functional.huber_loss(input, target, reduction="none", delta=delta)
        if reduction == "mean":
            return loss.sum() / loss.numel()
        return loss if reduction == "none" else loss.sum()

    cells = checked(summed, "value", "mean-divisor", "sum-of-none")
    assert causes(cells) == {MEANT: ["mean-divisor"]}


def test_float64_computed_in_float32_is_one_block():
    cells = checked(in_float32(functional.huber_loss), "value", "gradient", "sum-of-none")
    assert causes(cells) == {NARROW: ["gradient", "sum-of-none", "value"]}


def test_float64_computed_in_float32_is_one_block_for_all_losses():
    names = ("huber_loss", "mse_loss")
    cells = [c for n in names for c in checked(in_float32(getattr(functional, n)), "value", loss=n)]
    (block,) = blocks(cells)
    assert [cell.loss for cell in (block.shown, *block.others)] == [*names]


def test_a_narrower_result_dtype_and_its_wrong_numbers_share_a_cause():
    def narrow(input, target, reduction="mean", delta=1.0):
        call = functional.huber_loss(input.float(), target.float(), reduction, delta=delta)
        return call if input.dtype == torch.float64 else call.to(input.dtype)

    cells = checked(narrow, "value", "result-dtype")
    assert causes(cells)[NARROW] == ["result-dtype", "value"]


def test_a_common_factor_of_value_and_gradient_is_one_block():
    def scaled(input, target, reduction="mean", delta=1.0):
        return 1.01 * functional.huber_loss(input, target, reduction=reduction, delta=delta)

    cells = checked(scaled, "value", "gradient", "published-examples", "sum-of-none")
    want = {"huber_loss: off by the factor 1.01": ["gradient", "published-examples", "value"]}
    assert causes(cells) == want


def test_the_cause_of_a_missing_gradient_names_the_tensor():
    def detached(input, target, reduction="mean", delta=1.0):
        return functional.huber_loss(input, target.detach(), reduction, delta=delta)

    cells = checked(detached, "gradient", "value")
    assert causes(cells) == {"huber_loss: the gradient of target is missing": ["gradient"]}


def test_two_bugs_with_common_dtypes_are_two_blocks():
    """Check a factor in every dtype but float64, which is computed in float32."""

    def two(input, target, reduction="mean", delta=1.0):
        if input.dtype == torch.float64:
            return in_float32(functional.huber_loss)(input, target, reduction, delta=delta)
        return 1.01 * functional.huber_loss(input, target, reduction=reduction, delta=delta)

    cells = checked(two, "value", "gradient", "sum-of-none", "mean-divisor")
    assert causes(cells) == {
        NARROW: ["mean-divisor", "sum-of-none"],
        "huber_loss: off by the factor 1.01": ["gradient", "value"],
    }


def test_two_errors_of_one_type_are_two_blocks():
    def two(input, target, reduction="mean", delta=1.0):
        if reduction == "sum":
            raise ValueError("no sum")
        if input.dtype == torch.float64:
            raise ValueError("no float64")
        return functional.huber_loss(input, target, reduction=reduction, delta=delta)

    found = {b.shown.cause for b in blocks(checked(two, "value", "gradient", "sum-of-none"))}
    found |= {b.shown.cause for b in blocks(checked(two, "accepts"))}
    assert found <= {"raises ValueError: no sum", "raises ValueError: no float64", None}
    assert found


# === causes of single deviations ==============================================================


def case(dtype="float32", reduction="none", delta=1.0, first=0.5):
    numbers = np.array([first, 0.25], dtype)
    return Case(
        loss="huber_loss",
        form="",
        contract="(*), (*) -> (*)",
        spread=1,
        dtype=dtype,
        tensors={"input": numbers, "target": numbers},
        parameters={"delta": delta},
        reduction=reduction,
        cotangent=np.ones(2, dtype),
    )


def cause(deviation, *, beside=None, **more):
    return cause_of(HUBER, case(**more), deviation, beside)


def off(got, want, budget=1e-7, **more):
    return Deviation("the value", got, want, budget, check=None, **more)


def raised(text, kind="ValueError"):
    return Deviation("call raised", text, "a tensor", check=None, raised=(kind, text))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("shape (3, 4) is no (4,)", "shape (2, 5, 1) is no (7,)"),
        ("want at most 1e-05, got 3", "want at most 0.25, got -7.5"),
        ("size [2] of a", "size [3, 1] of a"),
        ("<T object at 0x7f12>", "<T object at 0x7fab>"),
        ("first line\n  detail 1", "first line\n  another detail"),
    ],
)
def test_errors_that_differ_in_numbers_or_shapes_share_a_cause(one, other):
    assert cause(raised(one)) == cause(raised(other)) is not None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("unexpected argument 'weight'", "unexpected argument 'pos_weight'"),
        ("no sum", "no mean"),
        ("compiling failed:\nno cat", "compiling failed:\nno where"),
    ],
)
def test_errors_with_different_words_have_different_causes(one, other):
    assert cause(raised(one)) != cause(raised(other))


def test_an_error_of_another_type_or_without_text_has_another_cause():
    assert cause(raised("a")) != cause(raised("a", "TypeError"))
    assert cause(raised("")) is None


def test_float32_numbers_show_that_float64_was_computed_in_float32():
    third = float(np.float32(1) / np.float32(3))
    assert cause(off(third, 1 / 3, 1e-16), dtype="float64") == NARROW
    # As near, but not a float32 number; an added epsilon gives it.
    assert cause(off(1 / 3 + 1e-8, 1 / 3, 1e-16), dtype="float64") is None
    # A number that every dtype holds; a missing epsilon gives it too.
    assert cause(off(0.5, 0.5 + 1e-8, 1e-16), dtype="float64") is None
    assert cause(off(0.5, 0.5 + 1e-8, 1e-16), dtype="float64", beside=NARROW) == NARROW
    assert cause(off(0.5, 0.5 + 1e-4, 1e-16), dtype="float64", beside=NARROW) is None


def test_whole_numbers_do_not_show_a_narrower_dtype():
    want = "huber_loss: off by the factor 1.01"
    assert cause(off(101.0, 100.0, 1e-4)) == want


def test_float32_computed_in_bfloat16_is_recognised_by_its_numbers():
    third = float(torch.tensor(1 / 3, dtype=torch.bfloat16))
    assert cause(off(third, 1 / 3)) == "float32: as if computed in bfloat16"


def test_an_integer_factor_is_one_cause_only_in_calls_of_one_reduction():
    """Check that twice the loss under `none` and under `mean` have different causes."""
    one, other = (cause(off(2.0, 1.0), reduction=reduction) for reduction in ("none", "mean"))
    assert one == "huber_loss: off by the factor 2"
    assert other == "huber_loss: off by the factor 2 ('mean')"


@pytest.mark.parametrize(
    "deviation",
    [
        off(1.001, 1.0),  # too near 1 to distinguish a factor from an error
        off(1.01, 1.0, 1e-2),  # a budget in which many factors fit
        off(0.0, 1.0),
        off(1.0, 0.0),
        off(1.0, np.nan),
        off(1.01, 1.0, None),  # a number that rounding cannot explain
    ],
)
def test_an_ambiguous_number_has_no_cause(deviation):
    assert cause(deviation) is None


def test_nan_in_different_calls_has_different_causes():
    found = {
        cause(off(np.nan, 1.0)),
        cause(off(np.nan, 1.0), delta=2.0),
        cause(off(np.nan, 1.0), first=np.inf),
        cause(off(np.nan, 1.0, gradient_of="input")),
        cause(off(np.inf, 1.0)),
        cause(off(np.inf, 1.0), reduction="mean"),
    }
    assert len(found) == 6


def test_a_mean_that_is_infinite_in_another_dtype_has_another_cause():
    means = {
        cause(off(np.inf, 1.0), dtype=dtype, reduction="mean") for dtype in ("float16", "bfloat16")
    }
    assert means == {MEANT, MEANT.replace("float16", "bfloat16")}


# === blocks of cells ==========================================================================


def cell(clause="value", cause=None, loss="huber_loss", surface="function", further=(), **more):
    named = {"loss": loss, "clause": clause, "surface": surface, "device": "cpu"}
    given = {"verdict": "deviates", "reason": f"{clause} is wrong", "got": "1", "want": "2"}
    extra = {"further": list(further)} if further else {}
    fields = {"call": f"{loss}(...)", "cause": cause, "extra": extra, **given, **more}
    return replace(SAMPLE, id=cell_id(**named), **named, **fields)


def kind(cause=None, reason="other", got="3", want="4"):
    return {"reason": reason, "call": "f()", "got": got, "want": want, "cause": cause}


def ids(found):
    return [(b.shown.clause, [b.label(other) for other in b.others]) for b in found]


def test_the_largest_block_comes_first_and_shows_its_clearest_cell():
    cells = [
        cell("autocast", "a"),
        cell("threads", "b"),
        cell("gradient", "b"),
        cell("value", "b"),
        cell("arrays", verdict="conforms"),
    ]
    assert ids(blocks(cells)) == [("value", ["gradient", "threads"]), ("autocast", [])]


def test_each_cell_without_a_cause_is_a_separate_block():
    cells = [cell("value"), cell("gradient"), cell("value", loss="l1_loss")]
    assert [block.count for block in blocks(cells)] == [1, 1, 1]


def test_both_surfaces_are_one_block_if_they_deviate_alike():
    same = [cell("value", surface=surface) for surface in ("class", "function")]
    assert ids(blocks(same)) == [("value", ["value (function)"])]
    assert len(blocks([same[0], replace(same[1], got="1.5")])) == 2


def test_a_cell_of_another_loss_is_named_with_its_loss():
    (block,) = blocks([cell("value", "c"), cell("value", "c", loss="l1_loss", surface="class")])
    assert block.label(block.others[0]) == "l1_loss/value (class)"


def test_a_further_deviation_without_another_cell_is_shown():
    hidden = cell("gradient", "c", further=[kind("unseen")])
    assert ids(blocks([cell("value", "c"), hidden])) == [("value", []), ("gradient", [])]
    # The further deviation is shown by another cell, as its first or a further one.
    elsewhere = cell("arrays", "unseen")
    assert ids(blocks([cell("value", "c"), hidden, elsewhere]))[0] == ("value", ["gradient"])
    behind = cell("value", "c", further=[kind("unseen")])
    assert ids(blocks([behind, hidden])) == [("value", ["gradient"])]


def test_a_further_deviation_without_a_cause_is_shown():
    hidden = cell("gradient", "c", further=[kind()])
    assert len(blocks([cell("value", "c"), hidden])) == 2


def test_a_timeout_is_one_block_per_loss():
    ended = {"verdict": "crash", "reason": "it did not end within 60 s", "got": None, "want": None}
    cells = [cell(clause, **ended) for clause in ("value", "gradient", "arrays")]
    assert [b.count for b in blocks([*cells, cell("value", loss="l1_loss", **ended)])] == [3, 1]


def test_cells_without_a_verdict_are_one_block():
    lost = {"verdict": "not-run", "reason": "planned, but no verdict arrived", "call": None}
    cells = [cell(loss=loss, **lost) for loss in ("huber_loss", "l1_loss")]
    assert [block.count for block in blocks(cells)] == [2]


@pytest.mark.parametrize("further", ["text", [1, {"reason": 2}, {}], {"reason": "x"}, None])
def test_malformed_further_deviations_are_left_out(further):
    odd = replace(cell("value", "c"), extra={"further": further})
    assert ids(blocks([odd, cell("gradient", "c")])) == [("value", ["gradient"])]


def test_every_failing_cell_is_in_exactly_one_block():
    cells = [cell(f"c{i}", f"cause {i % 3}", further=[kind(f"cause {i % 5}")]) for i in range(30)]
    found = [c.id for block in blocks(cells) for c in (block.shown, *block.others)]
    assert sorted(found) == sorted(c.id for c in cells)


@pytest.mark.parametrize(
    ("most", "want"),
    [
        (5, "b, c, d"),
        (3, "b, c, d"),
        (2, "b, c, ... (1 more cell)"),
        (1, "b, ... (2 more cells)"),
        (0, "(3 more cells)"),
    ],
)
def test_a_long_list_of_cells_is_shortened(most, want):
    first, *others = (cell(clause) for clause in "abcd")
    assert Block(first, tuple(others)).also(most) == want


def test_a_report_without_causes_can_be_read():
    data = cell("value", "c").to_data()
    assert data.pop("cause") == "c"
    assert Cell.from_data(data).cause is None


# === output of pytest =========================================================================

SCALED = """
    import torch

    def huber_loss(input, target, reduction="mean", delta=1.0):
        return 1.01 * torch.nn.functional.huber_loss(input, target, reduction, delta=delta)
"""


def test_each_failing_test_names_the_cell_that_shows_its_cause(workplace):
    workplace.write(mine=SCALED)
    done = workplace.run("--impl=mine", "--clause=gradient,value", "--profile=quick")
    text = "\n".join(done.out)
    assert done.status == 1
    assert "2 failed" in text
    cause = "cause:   huber_loss: off by the factor 1.01"
    told = [line.strip() for line in done.out if line.strip().startswith("cause:")]
    assert sorted(told) == [cause, f"{cause}; see huber_loss/value[function-cpu]"]
    assert "also breaks: gradient" in text.partition("clauses conform")[2]


def test_a_failing_test_of_another_suite_names_the_cell_that_shows_its_cause(workplace):
    workplace.write(
        mine=SCALED,
        test_mine="""
            import lossspec

            @lossspec.parametrize("mine", clauses=("gradient", "value"))
            def test_conformance(judge):
                judge()
        """,
    )
    done = workplace.within(lambda: pytest.main(["-p", "no:cacheprovider", "test_mine.py"]))
    assert "2 failed" in "\n".join(done.out)
    assert sum("; see huber_loss/value[function-cpu]" in line for line in done.out) == 1
