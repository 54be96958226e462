"""The oracle for a user's own tensors: correct results pass, wrong ones fail and are shown."""

import re
import tomllib
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch.nn import functional

import lossspec
from lossspec import cli
from lossspec.errors import ArgumentError, ArgumentTypeError, LossspecError, UnknownName
from lossspec.expectation.answer import Answer
from lossspec.implementations.oracle import function
from lossspec.oracle import parts
from lossspec.spec.catalogue import catalogue
from lossspec.strategies import calls

LOSSES = sorted(catalogue())
DEVIATIONS = Path(lossspec.__file__).parent / "deviations" / "torch.nn.functional.toml"
several = settings(max_examples=25, deadline=None, derandomize=True, database=None)


def scores(rows=6, classes=5, dtype=torch.float32):
    generator = torch.Generator().manual_seed(7)
    logits = torch.randn(rows, classes, generator=generator).to(dtype).requires_grad_()
    return logits, torch.randint(0, classes, (rows,), generator=generator)


def expected_of(call):
    """Return the answer of `lossspec.expect` for the same tensors, as a user passes them."""
    leaves = [call.tensors[name] for name in call.loss.form(call.case.form).tensors]
    return lossspec.expect(call.loss, *leaves, upstream=call.cotangent, **keywords(call))


# === correct results ======================================================================


def keywords(call):
    """Return the keywords of a call, with code as the text that the spec knows."""
    code = {n for n, parameter in call.loss.parameters.items() if parameter.code}
    return {n: call.case.parameters[n] if n in code else x for n, x in call.kwargs.items()}


@pytest.mark.parametrize("name", LOSSES)
def test_the_correctly_rounded_result_is_right(name):
    exact, compared = function(catalogue()[name]), []

    @several
    @given(calls(name))
    def right(call):
        leaves = [call.tensors[n] for n in call.loss.form(call.case.form).tensors]
        result = exact(*leaves, **keywords(call))
        agreement = expected_of(call).check(result, call.backward(result))
        compared.append(sum(one.compared for one in agreement.comparisons))
        assert agreement

    right()
    assert sum(compared) > 25


def test_a_smoothed_target_that_is_computed_by_a_difference_is_right():
    # For a smoothing of 1 the difference of two numbers near 1 loses digits of 1 / C.
    logits = scores(rows=1, classes=1027)[0][0].detach()
    logits[935] = -3.0
    logits.requires_grad_()
    target = torch.full((1027,), 2.4343e-4)
    target[935] = 0.75024
    smoothed = target - 1.0 * (target - 1 / 1027)
    loss = (torch.logsumexp(logits, 0) - logits) @ smoothed
    (gradient,) = torch.autograd.grad(loss, logits)
    answer = lossspec.expect("cross_entropy", logits, target, label_smoothing=1.0)
    assert answer.check(loss, {"input": gradient})


def listed(name):
    """Return whether torch has a known deviation for some call of a loss."""
    entries = tomllib.loads(DEVIATIONS.read_text("utf-8"))["deviation"]
    return any(entry["loss"] == name for entry in entries)


@pytest.mark.parametrize("name", [n for n in LOSSES if hasattr(functional, n)])
def test_the_result_of_torch_is_right_or_a_known_deviation(name):
    torchs, found = getattr(functional, name), []

    @several
    @given(calls(name, dtypes=["float32", "float64"]))
    def right(call):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of losses that torch calls experimental
                result = torchs(*call.args, **call.kwargs)
        except (RuntimeError, ValueError):
            assert listed(name)
            return
        agreement = expected_of(call).check(result, call.backward(result))
        found.append(bool(agreement.comparisons[0]))
        assert agreement or listed(name)
        assert bool(call.expected.agrees(result, call.gradients)) == bool(agreement)

    right()
    assert sum(found) >= 15


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_cross_entropy_of_torch_is_right_in_every_dtype(dtype):
    logits, target = scores(dtype=getattr(torch, dtype))
    target[2] = -100
    value = functional.cross_entropy(logits, target, label_smoothing=0.1)
    value.backward()
    answer = lossspec.expect("CrossEntropyLoss", logits, target, label_smoothing=0.1)
    agreement = answer.check(value, {"input": logits.grad})
    assert agreement
    assert [one.compared for one in agreement.comparisons] == [1, 25]
    assert "5 not compared: in an ignored row" in str(agreement)
    assert abs(answer.value - value.double()) <= answer.budget
    inside = (answer.gradients["input"] - logits.grad.double()).abs()
    assert (inside <= answer.gradient_budgets["input"]).all()


def test_classes_masked_with_minus_infinity_are_compared():
    logits, target = scores()
    with torch.no_grad():
        logits[0, (target[0] + 1) % 5] = -torch.inf
    value = functional.cross_entropy(logits, target)
    value.backward()
    answer = lossspec.expect("cross_entropy", logits, target)
    assert answer.check(value, {"input": logits.grad})
    assert not answer.check(value, {"input": logits.grad * 1.01})


def test_a_row_with_nan_is_not_checked_and_other_rows_are():
    logits, target = scores()
    with torch.no_grad():
        logits[1, 0] = torch.nan
    value = functional.cross_entropy(logits, target, reduction="none")
    answer = lossspec.expect("cross_entropy", logits, target, reduction="none")
    (comparison,) = answer.check(value).comparisons
    assert (bool(comparison), comparison.compared) == (True, 5)
    assert dict(comparison.not_asked) == {"the exact number is not finite": 1}


def test_the_mean_of_no_elements_is_nan():
    logits, _ = scores()
    ignored = torch.full((6,), -100)
    answer = lossspec.expect("cross_entropy", logits, ignored)
    assert answer.check(functional.cross_entropy(logits, ignored))
    assert not answer.check(torch.tensor(0.0))
    assert answer.check(torch.tensor(torch.nan), {"input": torch.zeros(6, 5)})


def test_the_upstream_argument_is_the_cotangent():
    logits, target = scores()
    upstream = torch.linspace(-1, 2, 6)
    value = functional.cross_entropy(logits, target, reduction="none")
    value.backward(upstream)
    given = {"reduction": "none", "upstream": upstream}
    answer = lossspec.expect("cross_entropy", logits, target, **given)
    assert answer.check(value, {"input": logits.grad})
    plain = lossspec.expect("cross_entropy", logits, target, reduction="none")
    assert not plain.check(value, {"input": logits.grad})
    scaled = lossspec.expect("cross_entropy", logits, target, reduction="sum", upstream=3.0)
    ones = plain.gradients["input"]
    assert torch.allclose(scaled.gradients["input"], 3 * ones, rtol=1e-12)


def test_tensors_may_be_passed_by_name_and_as_numpy_arrays():
    logits, target = scores()
    by_position = lossspec.expect("cross_entropy", logits, target, weight=torch.ones(5))
    by_name = lossspec.expect(
        "cross_entropy",
        target=target.numpy(),
        input=logits.detach().numpy(),
        weight=np.ones(5, np.float32),
    )
    assert by_name.value == by_position.value


def test_computed_in_a_wider_dtype_gives_a_smaller_budget():
    logits, target = scores(rows=64, dtype=torch.bfloat16)
    wide = logits.detach().float().requires_grad_()
    value = functional.cross_entropy(wide, target)
    value.backward()
    value, gradient = value.detach().bfloat16(), wide.grad.bfloat16()
    narrow = lossspec.expect("cross_entropy", logits, target)
    answer = lossspec.expect("cross_entropy", logits, target, computed_in="float32")
    assert answer.check(value, {"input": gradient})
    assert answer.budget < narrow.budget / 10
    assert narrow.check(value * 1.03)
    assert not answer.check(value * 1.03)


# === wrong results ========================================================================


def planted(kind):
    """Return a correct value and gradient with a defect of the given kind."""
    logits, target = scores()
    value = functional.cross_entropy(logits, target, reduction="none")
    value.sum().backward()
    value, gradient = value.detach().clone(), logits.grad.clone()
    if kind == "value x 1.01":
        value *= 1.01
    elif kind == "one element":
        value[3] += 1e-4
    elif kind == "nan":
        value[1] = torch.nan
    elif kind == "infinity":
        value[1] = torch.inf
    elif kind == "gradient":
        gradient[2, 4] = -gradient[2, 4]
    elif kind == "nan in the gradient":
        gradient[5, 0] = torch.nan
    return logits, target, value, gradient


@pytest.mark.parametrize(
    ("kind", "shown"),
    [
        (
            "value x 1.01",
            r"<wrong: value at \[\d\] is .*, want .*: .* budgets, .* ulps off; 6 of 6",
        ),
        ("one element", r"<wrong: value at \[3\] is .*: .* budgets, .* ulps off; 1 of 6 numbers"),
        ("nan", r"<wrong: value at \[1\] is nan, want .*: inf budgets, nan ulps off; 1 of 6"),
        ("infinity", r"<wrong: value at \[1\] is inf, want .*: inf budgets, inf ulps off; 1 of 6"),
        ("gradient", r"<wrong: gradient of input at \[2, 4\] is .*; 1 of 30 numbers wrong>"),
        ("nan in the gradient", r"<wrong: gradient of input at \[5, 0\] is nan, want .*; 1 of 30"),
    ],
)
def test_a_wrong_number_is_shown_with_its_index(kind, shown):
    logits, target, value, gradient = planted(kind)
    answer = lossspec.expect("cross_entropy", logits, target, reduction="none")
    agreement = answer.check(value, {"input": gradient})
    assert not agreement
    assert re.match(shown, repr(agreement))
    assert len(repr(agreement)) < 240  # pytest shows at most this many characters
    assert str(agreement).splitlines()[0] == "wrong"
    _, _, value, gradient = planted("nothing")
    assert answer.check(value, {"input": gradient})


@pytest.mark.parametrize(
    ("result", "problem"),
    [
        (None, "got None, want a tensor"),
        ("0.5", "got str, want a tensor"),
        (torch.zeros(1), r"got the shape \[1\], want \[\]"),
        (torch.tensor(1j), "got complex64 numbers, want real ones"),
        (torch.zeros(2, 2).to_sparse(), "got a sparse_coo tensor, want plain numbers"),
        (torch.zeros((), device="meta"), "got a meta tensor, want plain numbers"),
    ],
    ids=["none", "text", "shape", "complex", "sparse", "meta"],
)
def test_a_result_without_numbers_to_compare_is_wrong(result, problem):
    answer = lossspec.expect("cross_entropy", *scores())
    agreement = answer.check(result)
    assert not agreement
    assert re.fullmatch(f"<wrong: value: {problem}>", repr(agreement))


def test_a_missing_gradient_is_wrong():
    logits, target = scores()
    value = functional.cross_entropy(logits, target)
    answer = lossspec.expect("cross_entropy", logits, target)
    agreement = answer.check(value, {"input": None})
    assert repr(agreement) == "<wrong: gradient of input: got None, want a tensor>"


def test_a_float32_result_of_a_narrower_call_is_compared():
    logits, target = scores(dtype=torch.bfloat16)
    value = functional.cross_entropy(logits.float(), target)
    assert lossspec.expect("cross_entropy", logits, target).check(value)
    assert lossspec.expect("cross_entropy", logits, target).check(value.item())


# === large calls in parts =================================================================


def both(call, monkeypatch, part_bytes):
    """Return the answers to a call, computed at once and in parts."""
    whole = Answer(call.loss, call.case)
    _ = whole.value, whole.gradients
    with monkeypatch.context() as patch:
        patch.setattr(parts, "PIECE_NUMBERS", 0)
        patch.setattr(parts, "PART_BYTES", part_bytes)
        cut = Answer(call.loss, call.case)
        _ = cut.value, cut.gradients
    return whole, cut


@pytest.mark.parametrize("name", LOSSES)
def test_an_answer_in_parts_equals_the_whole_answer(name, monkeypatch):
    lengths = []

    @settings(max_examples=15, deadline=None, derandomize=True, database=None)
    @given(calls(name))
    def same(call):
        whole, cut = both(call, monkeypatch, 2**18)
        lengths.append(len(cut._solution.cut))
        tight = {"rtol": 1e-13, "atol": 0.0, "equal_nan": True}
        # The terms cancel, so the tolerance is relative to the size of the terms.
        torch.testing.assert_close(cut.value, whole.value, rtol=1e-12, atol=1e-12, equal_nan=True)
        torch.testing.assert_close(cut.budget, whole.budget, **tight)
        for tensor, want in whole.gradients.items():
            got = cut.gradients[tensor]
            torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12, equal_nan=True)
            budgets = (one.gradient_budgets[tensor] for one in (cut, whole))
            torch.testing.assert_close(*budgets, **tight)

    same()
    assert sum(lengths) >= 3


def test_a_large_call_stays_within_the_documented_memory():
    logits, target = scores(rows=2000, classes=128)
    value = functional.cross_entropy(logits, target, label_smoothing=0.1)
    value.backward()
    tracemalloc.start()
    try:
        answer = lossspec.expect("cross_entropy", logits, target, label_smoothing=0.1)
        agreement = answer.check(value, {"input": logits.grad})
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert agreement
    assert agreement.comparisons[1].compared == logits.numel()
    # Computed at once, it would take 2,700 bytes for each number: 660 MiB.
    stated = 64 * 2**20 + logits.nbytes + 100 * len(target)
    assert peak < 1.25 * stated


def test_a_wrong_number_in_a_later_part_is_shown_with_its_index(monkeypatch):
    monkeypatch.setattr(parts, "PIECE_NUMBERS", 0)
    monkeypatch.setattr(parts, "PART_BYTES", 2**18)
    logits, target = scores(rows=50)
    value = functional.cross_entropy(logits, target)
    value.backward()
    logits.grad[41, 3] *= 1.5
    answer = lossspec.expect("cross_entropy", logits, target)
    agreement = answer.check(value, {"input": logits.grad})
    assert 0 < answer._solution.cut["N"] < 41
    assert "gradient of input at [41, 3] is" in repr(agreement)


def test_a_large_call_that_cannot_be_divided_is_refused(monkeypatch):
    monkeypatch.setattr(parts, "LARGEST_NUMBERS", 1000)
    lengths = torch.tensor([2, 2]), torch.tensor([1, 2])
    answer = lossspec.expect("ctc_loss", torch.randn(4, 2, 3), torch.tensor([1, 2, 1]), *lengths)
    with pytest.raises(ArgumentError, match=r"ctc_loss is too large .* cannot be cut into parts"):
        _ = answer.value
    monkeypatch.setattr(parts, "PIECE_NUMBERS", 0)
    logits, target = scores(rows=3, classes=500)
    with pytest.raises(ArgumentError, match="even one element of its unreduced loss takes more"):
        lossspec.expect("cross_entropy", logits, target).check(torch.tensor(0.0))


# === invalid input ========================================================================


def wrong_calls():
    logits, target = scores()
    shape = r"no shape contract of cross_entropy fits input float32 \[6, 5\], target int64 \[5\]"
    high = target.clone()
    high[3] = 7
    yield "name", ("cros_entropy", logits, target), {}, "did you mean cross_entropy"
    yield "loss", (3, logits, target), {}, "loss, must be a name or a lossspec.Loss"
    yield "shapes", ("cross_entropy", logits, target[:5]), {}, f"{shape}; the contracts for"
    yield "few", ("cross_entropy", logits), {}, r"takes the tensors \(input, target\).* got 1"
    yield "typo", ("cross_entropy", logits, target), {"label_smothing": 0.1}, "label_smoothing"
    yield "range", ("cross_entropy", logits, target), {"label_smoothing": 2.0}, "out of range"
    yield "kind", ("cross_entropy", logits, target), {"label_smoothing": "a"}, "takes a number"
    yield "switch", ("poisson_nll_loss", logits, logits), {"full": 1}, "True or False, got 1"
    yield "reduction", ("cross_entropy", logits, target), {"reduction": "men"}, "mean"
    yield "index", ("cross_entropy", logits, high), {}, r"holds 7 at \[3\]; allowed: a class"
    yield "domain", ("nll_loss", logits.abs(), target), {}, "at most 0"
    yield "signs", ("soft_margin_loss", logits, logits), {}, "allowed: -1 or 1"
    yield "list", ("cross_entropy", [[1.0]], target), {}, "must be a torch tensor, got list"
    yield "mixed", ("l1_loss", logits, logits.double()), {}, "input is float32 and target is float"
    yield "complex", ("l1_loss", logits * 1j, logits * 1j), {}, "has dtype complex64; allowed"
    yield "integer", ("cross_entropy", logits, target.short()), {}, "dtype int16; allowed: "
    yield "sparse", ("l1_loss", logits.detach().to_sparse(), logits), {}, "input is a sparse_coo"
    yield "upstream", ("cross_entropy", logits, target), {"upstream": logits}, "upstream has the sh"
    yield "wider", ("cross_entropy", logits, target), {"computed_in": "float16"}, "known: float64"
    distance = {"distance_function": torch.dist}
    vectors = ("triplet_margin_with_distance_loss", logits, logits, logits)
    yield "code", vectors, distance, "distance_function must be one of these"
    yield "form", ("poisson_nll_loss", -logits.abs()), {"target": logits, "log_input": False}, "hol"


WRONG = list(wrong_calls())


@pytest.mark.parametrize(
    ("given", "named", "said"), [w[1:] for w in WRONG], ids=[w[0] for w in WRONG]
)
def test_a_call_outside_the_spec_raises_a_clear_error(given, named, said):
    with pytest.raises(LossspecError, match=said) as caught:
        lossspec.expect(*given, **named)
    assert isinstance(caught.value, ValueError | TypeError)
    assert "\n" not in str(caught.value)


def test_an_ignored_row_may_hold_any_number():
    logits, target = scores()
    target[1] = -100
    poisoned = -logits.detach().abs()
    poisoned[1] = torch.tensor([5.0, torch.nan, torch.inf, -torch.inf, 1.0])
    value = functional.nll_loss(poisoned, target)
    assert lossspec.expect("nll_loss", poisoned, target).check(value)


def test_padding_may_hold_any_number():
    scores_, targets = torch.randn(5, 2, 4).log_softmax(2), torch.tensor([[1, 2, 0], [3, 0, 99]])
    lengths = torch.tensor([5, 4]), torch.tensor([2, 1])
    harmless = functional.ctc_loss(scores_, targets.clamp(max=3), *lengths)
    assert lossspec.expect("ctc_loss", scores_, targets, *lengths).check(harmless)
    with pytest.raises(ArgumentError, match="do not fit each other"):  # a blank among the labels
        lossspec.expect("ctc_loss", scores_, targets, lengths[0], torch.tensor([3, 1]))


def test_gradients_of_an_unknown_tensor_raise_an_error():
    answer = lossspec.expect("cross_entropy", *scores())
    with pytest.raises(UnknownName, match="did you mean input"):
        answer.check(torch.tensor(1.0), {"inputs": torch.zeros(6, 5)})
    with pytest.raises(ArgumentTypeError, match="gradients must be a mapping from names"):
        answer.check(torch.tensor(1.0), torch.zeros(6, 5))


# === the command ==========================================================================


@pytest.fixture
def dump(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    logits, target = scores()
    value = functional.cross_entropy(logits, target, label_smoothing=0.1)
    value.backward()
    for name, tensor in (
        *(("logits", logits.detach()), ("target", target), ("out", value.detach())),
        *(("wrong", value.detach() * 1.01), ("grad", logits.grad), ("turned", -logits.grad)),
    ):
        torch.save(tensor, f"{name}.pt")
        np.save(f"{name}.npy", tensor.numpy())
    np.savez("all.npz", input=logits.detach().numpy(), target=target.numpy())
    torch.save({"input": logits.detach(), "target": target}, "all.pt")
    np.savez("more.npz", input=logits.detach().numpy(), target=target.numpy(), epoch=np.ones(1))
    Path("bad.pt").write_text("nonsense", "utf-8")
    Path("bad.npz").write_bytes(Path("all.npz").read_bytes()[:200])
    torch.save([1, 2], "list.pt")
    return tmp_path


SMOOTH = "--param label_smoothing=0.1"


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (f"logits.pt target.pt --against out.pt {SMOOTH} --gradient input=grad.pt", 0),
        (f"logits.npy target.npy --against out.npy {SMOOTH}", 0),
        (f"all.pt --against out.pt {SMOOTH}", 0),
        (f"all.npz --against out.pt {SMOOTH}", 0),
        (f"input=more.npz:input target=more.npz:target --against out.pt {SMOOTH}", 0),
        (f"more.npz:input target.pt --against out.pt {SMOOTH}", 0),
        ("logits.pt target.pt", 0),
        ("logits.pt target.pt --reduction none", 0),
        ("logits.pt target.pt --against out.pt", 1),
        (f"logits.pt target.pt --against wrong.pt {SMOOTH}", 1),
        (f"logits.pt target.pt --against out.pt {SMOOTH} --gradient input=turned.pt", 1),
        (f"logits.pt target.pt --against logits.pt {SMOOTH}", 1),
    ],
)
def test_the_command_prints_right_or_wrong(dump, capsys, words, status):
    assert cli.main(["expect", "cross_entropy", *words.split()]) == status
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("cross_entropy: ")
    if "--against" in words:
        assert out[-1] == ("right" if status == 0 else "wrong")
        assert all(line[0] in "✓✗" for line in out[1:-1])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("nope.pt target.pt", "nope.pt: No such file or directory"),
        ("bad.pt target.pt", "bad.pt: the file is damaged or holds more than tensors"),
        ("bad.npz", "bad.npz: the file is damaged or holds more than tensors"),
        ("list.pt target.pt", "list.pt: it holds a list, not a tensor"),
        ("logits.txt target.pt", "logits.txt: the name must end in one of .pt, .pth, .npy, .npz"),
        ("more.npz", "more.npz holds 'epoch', but cross_entropy has no such tensor"),
        ("all.npz:inputs target.pt", "all.npz: the file has no tensor 'inputs'; did you mean inpu"),
        ("inputs=logits.pt target.pt", "unknown tensor of cross_entropy 'inputs'; did you mean"),
        ("logits.pt target.pt --param label_smothing=1", "did you mean label_smoothing?"),
        ("logits.pt target.pt --param label_smoothing=a", "label_smoothing takes a number"),
        ("logits.pt target.pt --param label_smoothing", "write --param NAME=VALUE"),
        ("logits.pt target.pt --gradient input=grad.pt", "--gradient needs --against FILE"),
        ("logits.pt target.pt --against all.pt", "all.pt: the file holds several tensors"),
        ("logits.pt", "takes the tensors (input, target)"),
        ("target.pt logits.pt", "input has dtype int64; allowed: float32, float64, float16"),
    ],
)
def test_bad_input_of_the_command_is_a_one_line_error(dump, capsys, words, said):
    assert cli.main(["expect", "cross_entropy", *words.split()]) == 4
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert said in err


def test_an_oversized_file_is_refused_before_it_is_read(dump, capsys, monkeypatch):
    monkeypatch.setattr("lossspec.expectation.files.LARGEST", 300)
    assert cli.main(["expect", "cross_entropy", "logits.pt", "target.pt"]) == 4
    assert "logits.pt: the file holds" in capsys.readouterr().err


def test_code_in_a_file_is_not_run(dump, capsys):
    torch.save({"input": _Trap()}, "trap.pt")
    assert cli.main(["expect", "cross_entropy", "trap.pt", "target.pt"]) == 4
    assert "trap.pt: the file is damaged or holds" in capsys.readouterr().err
    assert not Path("sprung").exists()


class _Trap:
    def __reduce__(self):
        return Path.touch, (Path("sprung"),)
