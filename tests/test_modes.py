"""Modes: other dtypes, containers and transformations, where defects are found."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from lossspec_gallery.pinball_loss import spec as PINBALL
from torch.nn import functional as F

import lossspec
from lossspec.cases.case import published
from lossspec.clauses import clauses
from lossspec.clauses.trial import Trial
from lossspec.execution.implementation import LossUnderTest
from lossspec.execution.memory import made
from lossspec.judging.deviation import deviation_of
from lossspec.judging.profiles import PROFILES
from lossspec.judging.stream import stream
from lossspec.oracle.solver import SolvedCase, solve, solve_second
from lossspec.report.verdict import Verdict
from lossspec.spec.catalogue import catalogue, find

LOSSES = list(catalogue())


def verdict(loss, target, clause, **more):
    (cell,) = lossspec.check(loss, target, clauses=[clause], profile="quick", **more)
    return cell


# === published examples ===================================================================


@pytest.mark.parametrize("name", LOSSES)
def test_the_oracle_gives_the_published_values(name):
    loss = find(name)
    assert loss.examples
    for example in loss.examples:
        case = published(loss, example)
        got = solve(loss, case).value(case.reduction).exact.astype(float)
        assert got == pytest.approx(np.array(example.value), abs=0.6 * 10**-example.digits)


def test_a_loss_that_differs_from_a_published_example_names_its_source():
    cell = verdict("l1_loss", lambda input, target: (input - target).abs().sum(), "value")
    assert cell.verdict is Verdict.DEVIATES

    def off(input, target, reduction="mean"):
        return F.l1_loss(input, target, reduction=reduction) * (1 + 1e-3)

    cell = verdict("l1_loss", off, "published-examples")
    assert cell.verdict is Verdict.DEVIATES
    assert cell.reason == "the example (worked by hand: (1 + 0 + 2 + 0.5) / 4)"
    assert (float(cell.got), cell.want) == (pytest.approx(0.875875), "0.875")


# === nan ==================================================================================


def test_a_hidden_nan_is_found():
    def hides(input, target, reduction="mean"):
        losses = F.mse_loss(input, target, reduction="none").nan_to_num(
            0, posinf=torch.inf, neginf=-torch.inf
        )
        return losses if reduction == "none" else getattr(losses, reduction)()

    cell = verdict("mse_loss", hides, "nan-spreads")
    assert cell.verdict is Verdict.DEVIATES
    assert (cell.got, cell.want) == ("0", "nan")


def test_a_nan_that_spreads_to_other_rows_is_found():
    def spreads(input, target, reduction="mean"):
        losses = F.mse_loss(input, target, reduction="none")
        losses = losses + 0 * losses.sum()
        return losses if reduction == "none" else getattr(losses, reduction)()

    cell = verdict("mse_loss", spreads, "nan-spreads")
    assert cell.verdict is Verdict.DEVIATES
    assert cell.reason.startswith("the loss of an element not computed from the NaN")


@pytest.mark.parametrize("loses", [torch.fmax, torch.maximum], ids=["lost", "kept"])
def test_the_maximum_of_a_number_and_nan_is_not_checked(loses):
    def margin(input1, input2, target, margin=0.0, reduction="mean"):
        losses = loses(margin - target * (input1 - input2), torch.zeros_like(input1))
        return losses if reduction == "none" else getattr(losses, reduction)()

    assert verdict("margin_ranking_loss", margin, "nan-spreads").verdict is Verdict.CONFORMS


# === dtypes ===============================================================================


def test_the_call_of_a_superfluous_graph_shows_what_requires_a_gradient():
    def attached(input, target, reduction="mean"):
        with torch.enable_grad():
            return F.mse_loss(input, target, reduction=reduction)

    cell = verdict("mse_loss", attached, "grad-mode")
    assert (cell.verdict, cell.reason) == (
        Verdict.DEVIATES,
        "the result under no_grad has a graph",
    )
    assert "requires_grad=True)" in cell.call
    assert "backward" not in cell.call


def number_if(condition):
    """Return a loss that returns a Python number where a condition of its input holds."""

    def mse_loss(input, target, reduction="mean"):
        losses = F.mse_loss(input, target, reduction=reduction)
        return 1.0 if condition(input) else losses

    return mse_loss


@pytest.mark.parametrize(
    ("clause", "condition", "what"),
    [
        ("grad-mode", lambda x: not torch.is_grad_enabled(), "the call under no_grad"),
        (
            "grad-mode",
            lambda x: not (x.requires_grad or torch.is_inference_mode_enabled()),
            "the call with no gradient required",
        ),
        ("compiled", lambda x: torch.compiler.is_compiling(), "the compiled call"),
        (
            "fake-tensors",
            lambda x: type(x).__name__ == "FakeTensor",
            "the call on fake tensors",
        ),
        (
            "tensor-subclass",
            lambda x: type(x).__name__ == "Passing",
            "the call with tensors of a subclass",
        ),
        ("computed-inputs", lambda x: not x.is_leaf, "a call with computed tensors"),
    ],
)
def test_a_number_in_place_of_a_tensor_deviates(clause, condition, what):
    cell = verdict("mse_loss", number_if(condition), clause)
    assert (cell.verdict, cell.reason) == (Verdict.DEVIATES, f"{what} returned no tensor")
    assert (cell.got, cell.want) == ("float", "a tensor")


def test_a_mixed_dtype_call_may_be_refused_but_not_in_backward():
    def refuses(input, target, reduction="mean"):
        if input.dtype != target.dtype:
            raise TypeError(f"{input.dtype} and {target.dtype}")
        return F.mse_loss(input, target, reduction=reduction)

    cell = verdict("mse_loss", refuses, "mixed-dtypes")
    assert cell.verdict is Verdict.UNSUPPORTED
    assert cell.reason == "inferred: it does not take target in another dtype than the rest"
    for target, torchs in ((F.huber_loss, "torch.nn.functional"), (torch.nn.HuberLoss, "torch.nn")):
        cell = verdict("huber_loss", target, "mixed-dtypes")
        assert cell.verdict is Verdict.KNOWN  # torch's own bug
        assert cell.reason == f"inherited: {torchs} deviates in the same way on the same call"
        assert cell.got.startswith("RuntimeError: Found dtype")


def test_a_composition_may_inherit_a_deviation_from_another_torch_loss():
    def smooth(input, target, reduction="mean", beta=1.0):
        if beta == 0:
            return F.l1_loss(input, target, reduction=reduction)
        return F.huber_loss(input, target, reduction=reduction, delta=beta) / beta

    assert verdict("smooth_l1_loss", smooth, "mixed-dtypes").verdict is not Verdict.DEVIATES


def test_a_loss_that_loses_precision_under_autocast_conforms():
    def product(input1, input2, target, margin=0.0, reduction="mean"):
        a, b = (F.normalize(x, dim=-1, eps=1e-8) for x in (input1, input2))
        cos = (a.unsqueeze(-2) @ b.unsqueeze(-1)).squeeze(-1).squeeze(-1)
        losses = torch.where(target > 0, 1 - cos, (cos - margin).relu())
        return losses if reduction == "none" else getattr(losses, reduction)()

    assert verdict("cosine_embedding_loss", product, "autocast").verdict is Verdict.CONFORMS


def test_an_option_that_autocast_loses_is_found():
    def forgets(input, target, log_input=True, full=False, eps=1e-8, reduction="mean"):
        full = full and not torch.is_autocast_enabled("cpu")
        return F.poisson_nll_loss(
            input, target, log_input=log_input, full=full, eps=eps, reduction=reduction
        )

    assert verdict("poisson_nll_loss", forgets, "autocast").verdict is Verdict.DEVIATES
    assert verdict("poisson_nll_loss", F.poisson_nll_loss, "autocast").verdict is Verdict.CONFORMS


def test_a_loss_that_warns_about_complex_inputs_is_unsupported():
    cell = verdict("l1_loss", F.l1_loss, "complex-inputs")
    assert cell.verdict is Verdict.CONFORMS

    def real(input, target, reduction="mean"):
        return F.l1_loss(input.double(), target.double(), reduction=reduction).to(torch.float32)

    cell = verdict("l1_loss", real, "complex-inputs", dtypes=["float32"])
    assert cell.verdict is Verdict.UNSUPPORTED
    assert (
        cell.reason
        == "inferred: it takes no complex numbers: it drops the imaginary part or returns no tensor"
    )


# === arrays ===============================================================================


@pytest.mark.parametrize("name", ["l1_loss", "cross_entropy", "nll_loss", "mse_loss"])
def test_torch_refuses_arrays_with_a_type_error(name):
    loss = find(name)
    case = published(loss, loss.examples[0])
    arrays = [case.tensors[tensor].astype(float) for tensor in ("input", "target")]
    with pytest.raises(TypeError):
        getattr(F, name)(*arrays)


@pytest.mark.parametrize("name", ["l1_loss", "mse_loss"])
def test_from_numpy_gives_the_result_in_float64(name):
    example = find(name).examples[0]
    tensors = [torch.from_numpy(np.array(x)) for x in example.arguments.values()]
    got = getattr(F, name)(*tensors)
    assert (got.dtype, got.item()) == (torch.float64, example.value)


def test_a_loss_that_rounds_numpy_arrays_is_found():
    def single(input, target, reduction="mean"):
        if isinstance(input, np.ndarray):
            input, target = torch.Tensor(input), torch.Tensor(target)
        return F.mse_loss(input, target, reduction=reduction)

    cell = verdict("mse_loss", single, "arrays", dtypes=["float64"])
    assert cell.verdict is Verdict.DEVIATES
    assert cell.reason == "the result's dtype for NumPy arrays"


# === unsupported modes ====================================================================


class Halves(torch.autograd.Function):
    """Half the squared error, with forward and backward only."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return 2 * x.detach() * grad


def plain(input, target, reduction="mean"):
    losses = Halves.apply(input - target)
    return losses if reduction == "none" else getattr(losses, reduction)()


@pytest.mark.parametrize("clause", ["forward-mode", "vmap"])
def test_a_mode_that_does_not_work_is_unsupported(clause):
    (cell,) = lossspec.check("mse_loss", plain, clauses=[clause])
    assert cell.verdict is Verdict.UNSUPPORTED
    assert cell.reason


# === compiled and exported ================================================================


def squared(input, target, reduction, beside=0.0):
    loss = (input - target) ** 2 + beside
    return loss if reduction == "none" else getattr(loss, reduction)()


def test_a_gradient_changed_only_by_compiling_is_found():
    def other_slope(input, target, reduction="mean"):
        compiling = torch.compiler.is_compiling()
        return squared(input, target, reduction, input - input.detach() if compiling else 0.0)

    cell = verdict("mse_loss", other_slope, "compiled")
    assert cell.verdict is Verdict.DEVIATES
    assert "the gradient of input under torch.compile" in cell.reason


def test_a_gradient_lost_by_compiling_is_found():
    def cut(input, target, reduction="mean"):
        loss = squared(input, target, reduction)
        return loss.detach() if torch.compiler.is_compiling() else loss

    cell = verdict("mse_loss", cut, "compiled")
    assert cell.verdict is Verdict.DEVIATES
    assert cell.reason.startswith("no gradient of ")


def test_a_check_dropped_by_compiling_is_found():
    def unchecked(input, target, reduction="mean", beta=1.0):
        if beta < 0 and torch.compiler.is_compiling():
            return F.smooth_l1_loss(input, target, reduction=reduction, beta=-beta)
        return F.smooth_l1_loss(input, target, reduction=reduction, beta=beta)

    loss = find("smooth_l1_loss")  # one case: the search for a simpler one compiles many times
    case = SolvedCase(loss, published(loss, loss.examples[0]))
    trial = Trial(LossUnderTest("mine", loss, "function", unchecked), case)
    deviation = deviation_of(clauses()["compiled-refusal"], trial)
    assert deviation is not None
    assert deviation.what == "beta=-1.0 is out of range, yet nothing was raised under torch.compile"


def test_a_wrong_shape_of_one_element_on_fake_tensors_is_found():
    # Torch 2.14 computes with the number of a one-element fake tensor if it knows the number.
    case = published(find("l1_loss"), find("l1_loss").examples[0])
    one = {name: np.ones((), np.float32) for name in case.tensors}
    case = case.with_(
        spread=0, tensors=one, reduction="none", cotangent=np.ones((), np.float32), layouts={}
    )

    def flat(input, target, reduction="mean"):
        if type(input).__name__ == "FakeTensor":
            return F.multi_margin_loss(input.view(1), target.long(), reduction="none")
        return F.l1_loss(input, target, reduction=reduction)

    under_test = LossUnderTest("mine", find("l1_loss"), "function", flat)
    trial = Trial(under_test, SolvedCase(find("l1_loss"), case))
    deviation = deviation_of(clauses()["fake-tensors"], trial)
    assert deviation is not None
    assert (deviation.got, deviation.want) == ("torch.float32 [1]", "torch.float32 []")


def test_a_value_changed_by_exporting_is_found():
    def exported_sum(input, target, reduction="mean"):
        exporting = torch.compiler.is_exporting() and reduction == "mean"
        return squared(input, target, "sum" if exporting else reduction)

    assert verdict("mse_loss", exported_sum, "exported").verdict is Verdict.DEVIATES


def test_a_failed_export_is_unsupported_and_prints_nothing(capfd):
    def by_number(input, target, reduction="mean"):
        loss = squared(input, target, reduction)
        return loss if float(loss.detach().sum()) >= 0 else -loss

    capfd.readouterr()
    cell = verdict("mse_loss", by_number, "exported")
    assert cell.verdict is Verdict.UNSUPPORTED
    assert cell.reason.startswith("inferred: it does not work with torch.export (")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("clause", ["compiled", "compiled-refusal", "exported"])
def test_a_composition_of_torch_operations_conforms_in_every_mode(clause):
    def plain(input, target, reduction="mean"):
        if reduction not in ("none", "mean", "sum"):
            raise ValueError(reduction)
        return squared(input, target, reduction)

    assert verdict("mse_loss", plain, clause).verdict is Verdict.CONFORMS


# === memory ===============================================================================


def test_quadratic_memory_is_found_for_correct_numbers():
    def all_pairs(input, target, reduction="mean"):
        x, y = torch.broadcast_tensors(input, target)
        pairs = (x.reshape(-1, 1) - y.reshape(1, -1)).diagonal().reshape(x.shape) ** 2
        return pairs if reduction == "none" else getattr(pairs, reduction)()

    cell = verdict("mse_loss", all_pairs, "memory-in-proportion")
    assert cell.verdict is Verdict.DEVIATES
    assert (cell.reason, cell.want) == (
        "the peak memory of a call on 4096 elements",
        "at most 64 times",
    )


def rows_compared(anchor, positive, negative, margin=1.0, p=2.0, eps=1e-6, swap=False, **more):
    far = F.pairwise_distance(anchor, negative, p, eps)
    if swap:
        far = torch.minimum(far, F.pairwise_distance(positive, negative, p, eps))
    pairs = (anchor.unsqueeze(-2) - positive.unsqueeze(-3) + eps).norm(p, -1)
    near = pairs.diagonal(dim1=-2, dim2=-1) if anchor.ndim == 2 else pairs[..., 0, 0]
    losses = torch.relu(near - far + margin)
    reduction = more.get("reduction", "mean")
    return losses if reduction == "none" else getattr(losses, reduction)()


def test_all_pairs_of_rows_are_found_where_a_row_is_a_vector():
    cell = verdict("triplet_margin_loss", rows_compared, "memory-in-proportion")
    assert cell.verdict is Verdict.DEVIATES
    assert cell.want == "at most 64 times"


def test_the_memory_of_a_loop_over_all_rows_is_not_measured():
    def looped(input, target, weight=None, reduction="mean"):
        if not input.numel() or weight is not None:
            return F.mse_loss(input, target, weight=weight, reduction=reduction)
        pairs = zip(input.reshape(-1).unbind(), target.reshape(-1).unbind(), strict=True)
        losses = torch.stack([(x - y) ** 2 for x, y in pairs]).reshape(input.shape)
        return losses if reduction == "none" else getattr(losses, reduction)()

    cell = verdict("mse_loss", looped, "memory-in-proportion", dtypes=["float32"])
    assert cell.verdict is Verdict.UNSUPPORTED
    assert cell.reason.endswith("a call on 4096 elements runs more than 20,000 operations")


class Jacobian(torch.autograd.Function):
    """The softmax, whose backward makes the matrix of all derivatives of a row."""

    @staticmethod
    def forward(ctx, input):
        softmax = input.softmax(-1)
        ctx.save_for_backward(softmax)
        return softmax.log()

    @staticmethod
    def backward(ctx, upstream):
        (p,) = ctx.saved_tensors
        jacobian = torch.eye(p.shape[-1]).to(p) - p.unsqueeze(-2)
        return torch.einsum("...i,...ij->...j", upstream, jacobian)


def test_a_matrix_of_all_classes_is_found_in_backward():
    def loss(input, target, **more):
        return F.nll_loss(Jacobian.apply(input), target, **more)

    cell = verdict("cross_entropy", loss, "memory-within-samples")
    assert cell.verdict is Verdict.DEVIATES
    assert cell.reason == "the peak memory of a call with N = 4, C = 256"


def test_pairs_of_classes_are_allowed_where_the_definition_has_them():
    def pairs(input, target, reduction="mean"):
        listed = target.clamp(min=0)
        counts = (target >= 0).cumprod(-1).to(input.dtype)
        classes = torch.arange(input.shape[-1])
        named = ((listed.unsqueeze(-1) == classes) & (counts.unsqueeze(-1) > 0)).any(-2)
        own = input.gather(-1, listed).unsqueeze(-1)
        hinge = torch.relu(1 - own + input.unsqueeze(-2))
        kept = counts.unsqueeze(-1) * (~named).to(input.dtype).unsqueeze(-2)
        losses = (hinge * kept).sum((-1, -2)) / input.shape[-1]
        return losses if reduction == "none" else getattr(losses, reduction)()

    assert verdict("multilabel_margin_loss", pairs, "value").verdict is Verdict.CONFORMS
    cell = verdict("multilabel_margin_loss", pairs, "memory-within-samples")
    assert cell.verdict is Verdict.CONFORMS


def test_memory_within_a_sample_is_judged_where_samples_have_an_axis_of_their_own():
    clause = clauses()["memory-within-samples"]
    assert clause.applies(find("cosine_embedding_loss"), "function")
    assert not clause.applies(find("mse_loss"), "function")
    assert not clause.applies(find("ctc_loss"), "function")  # it may loop over the sequences


def test_the_memory_of_a_loss_outside_torch_is_measured_by_the_profiler():
    tensor = torch.ones(3)
    assert made(lambda: tensor.numpy() + 1) is None
    assert made(lambda: (tensor + 1).view(3, 1)) == 12


# === modules, and related calls ===========================================================


class Greedy(torch.nn.AdaptiveLogSoftmaxWithLoss):
    def predict(self, input):
        return self.head(input).argmax(1)


def test_a_prediction_that_confuses_cluster_and_class_is_found():
    name = "adaptive_log_softmax_with_loss"
    cell = verdict(name, Greedy, "every-class")
    assert cell.verdict is Verdict.DEVIATES
    assert cell.reason.startswith("predict at [")
    right = verdict(name, torch.nn.AdaptiveLogSoftmaxWithLoss, "every-class")
    assert right.verdict is Verdict.CONFORMS


class Unpicklable(torch.nn.L1Loss):
    def __init__(self, reduction="mean"):
        super().__init__(reduction=reduction)
        self.kept = lambda x: x


def test_an_unpicklable_module_deviates_and_a_local_class_conforms():
    class Local(torch.nn.L1Loss):
        pass

    cell = verdict("l1_loss", Unpicklable, "pickled")
    assert (cell.verdict, cell.reason) == (Verdict.DEVIATES, "pickling raised")
    assert verdict("l1_loss", Local, "pickled").verdict is Verdict.CONFORMS


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx, upstream):
        (x,) = ctx.saved_tensors
        return upstream.mul_(2 * x) if upstream.shape == x.shape else upstream * 2 * x


def test_a_backward_that_writes_to_the_cotangent_is_found():
    def loss(input, target, reduction="mean"):
        losses = _Scaled.apply(input - target)
        return losses if reduction == "none" else getattr(losses, reduction)()

    cells = lossspec.check("mse_loss", loss, clauses=["inputs-untouched"])
    assert [cell.reason for cell in cells] == ["the cotangent was written to in backward"]


def test_a_constructor_that_extends_the_list_of_its_caller_is_named():
    class Extending(torch.nn.AdaptiveLogSoftmaxWithLoss):
        def __init__(self, in_features, n_classes, cutoffs, div_value=4.0, head_bias=False):
            super().__init__(in_features, n_classes, cutoffs, div_value, head_bias)
            cutoffs.append(n_classes)

    name = "adaptive_log_softmax_with_loss"
    cell = verdict(name, Extending, "inputs-untouched")
    assert (cell.verdict, cell.reason) == (Verdict.DEVIATES, "the list cutoffs was changed")
    right = verdict(name, torch.nn.AdaptiveLogSoftmaxWithLoss, "inputs-untouched")
    assert right.verdict is Verdict.CONFORMS


class FirstClasses(torch.nn.CrossEntropyLoss):
    classes = None

    def forward(self, input, target):
        if self.classes is None and input.ndim > 1:
            self.classes = input.shape[1]
        value = super().forward(input, target)
        same = input.ndim < 2 or input.shape[1] == self.classes
        return value if same else value * 2


def test_a_module_that_keeps_the_number_of_classes_is_found():
    cells = lossspec.check("cross_entropy", FirstClasses, clauses=["other-calls"])
    assert [cell.reason.partition(" at ")[0] for cell in cells] == ["the value after other calls"]


class FirstContract(torch.nn.CrossEntropyLoss):
    """Whether the targets are probabilities is decided in the first call."""

    probabilities = None

    def forward(self, input, target):
        if self.probabilities is None:
            self.probabilities = target.is_floating_point()
        if self.probabilities and not target.is_floating_point():
            target = torch.nn.functional.one_hot(target, input.shape[-1]).to(input.dtype)
        return super().forward(input, target)


def test_a_module_that_keeps_the_form_of_its_first_call_is_found():
    cell = verdict("cross_entropy", FirstContract, "other-calls")
    assert (cell.verdict, "after other calls" in cell.reason) == (Verdict.DEVIATES, True)


def test_an_error_that_the_valid_call_also_raises_is_not_judged():
    def loss(input, target, ignore_index=-100, reduction="mean", label_smoothing=0.0):
        assert label_smoothing < 1  # a bare assertion, which is no valid refusal of a class
        options = {"ignore_index": ignore_index, "label_smoothing": label_smoothing}
        return F.cross_entropy(input, target, reduction=reduction, **options)

    assert verdict("cross_entropy", loss, "refuses-classes").verdict is Verdict.CONFORMS


def test_a_target_with_a_longer_last_axis_must_be_refused():
    def cut(input, target, reduction="mean"):
        if input.shape[:1] != target.shape[:1] or input.ndim != target.ndim:
            raise ValueError("sizes differ")
        if input.ndim > 1 and input.shape != target.shape:
            target = target[..., : input.shape[-1]]
        return torch.nn.functional.l1_loss(input, target, reduction=reduction)

    cell = verdict("l1_loss", cut, "refuses-shapes")
    assert (cell.verdict, "yet nothing was raised" in cell.reason) == (Verdict.DEVIATES, True)


def test_a_cosine_that_divides_by_a_zero_norm_is_found():
    def loss(input1, input2, target, margin=0.0, reduction="mean"):
        unit = [x / torch.linalg.vector_norm(x, dim=-1, keepdim=True) for x in (input1, input2)]
        cos = (unit[0] * unit[1]).sum(-1)
        losses = torch.where(target > 0, 1 - cos, (cos - margin).relu())
        return losses if reduction == "none" else getattr(losses, reduction)()

    cell = verdict("cosine_embedding_loss", loss, "value", dtypes=["float64"])
    assert (cell.verdict, cell.got) == (Verdict.DEVIATES, "nan")


def test_a_nonzero_cosine_of_a_zero_vector_is_found():
    def loss(input1, input2, target, margin=0.0, reduction="mean"):
        cos = F.cosine_similarity(input1, input2, dim=-1)
        zero = (input1 == 0).all(-1) | (input2 == 0).all(-1)
        cos = torch.where(zero, 0.5, cos)
        losses = torch.where(target > 0, 1 - cos, (cos - margin).relu())
        return losses if reduction == "none" else getattr(losses, reduction)()

    cell = verdict("cosine_embedding_loss", loss, "value", dtypes=["float32"])
    assert cell.verdict is Verdict.DEVIATES
    assert re.search(r"^input[12] = tensor\(\[+0\.0", cell.call, re.MULTILINE)


def test_a_parameter_kept_in_float32_is_found():
    def loss(input, target, reduction="mean", delta=1.0, weight=None):
        kept = torch.tensor(delta, dtype=torch.float32).item()
        return F.huber_loss(input, target, reduction=reduction, delta=kept, weight=weight)

    cell = verdict("huber_loss", loss, "value", dtypes=["float64"])
    assert (cell.verdict, "delta=0.3" in cell.call) == (Verdict.DEVIATES, True)


def test_a_nan_that_torch_has_in_another_element_is_excused():
    def weighted(input, target, weight=None, reduction="mean"):
        losses = F.binary_cross_entropy(input, target, reduction="none")
        losses = losses if weight is None else losses * weight
        return losses if reduction == "none" else getattr(losses, reduction)()

    cell = verdict("binary_cross_entropy", weighted, "gradient")
    assert cell.verdict is Verdict.KNOWN


def test_a_wrapper_of_torch_inherits_its_known_deviations():
    def wrapped(input1, input2, target, margin=0.0, reduction="mean"):
        return F.cosine_embedding_loss(input1, input2, target, margin=margin, reduction=reduction)

    for seed in (4, 5):
        cell = verdict("cosine_embedding_loss", wrapped, "gradient", seed=seed)
        assert cell.verdict is Verdict.KNOWN


class SavedSlope(torch.autograd.Function):
    """Squares whose backward treats its derivative as a constant."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(2 * x)
        return x**2

    @staticmethod
    def backward(ctx, upstream):
        return upstream * ctx.saved_tensors[0]


class MarkedSlope(SavedSlope):
    """The same squares, with the derivative marked as not differentiable."""

    backward = staticmethod(torch.autograd.function.once_differentiable(SavedSlope.backward))


class SlopeOfArrays(SavedSlope):
    """The same squares, computed by an array library."""

    @staticmethod
    def forward(ctx, x):
        array = x.numpy(force=True)
        ctx.save_for_backward(torch.from_numpy(np.asarray(2 * array)))
        return torch.from_numpy(np.asarray(array**2))


@pytest.mark.parametrize(
    ("slope", "want"),
    [(SavedSlope, "deviates"), (MarkedSlope, "unsupported"), (SlopeOfArrays, "unsupported")],
)
def test_a_derivative_treated_as_constant_must_be_marked(slope, want):
    def squares(input, target, reduction="mean"):
        losses = slope.apply(input - target)
        return losses if reduction == "none" else getattr(losses, reduction)()

    cell = verdict("mse_loss", squares, "second-order")
    assert cell.verdict == want, cell.reason


class OpenAtZero(torch.autograd.Function):
    """t log t - t x, whose derivative by t is NaN at t = 0 and constant there."""

    @staticmethod
    def forward(ctx, x, t):
        ctx.save_for_backward(x, t)
        return torch.xlogy(t, t) - t * x

    @staticmethod
    def backward(ctx, g):
        x, t = ctx.saved_tensors
        return -t * g, torch.where(t == 0, torch.full_like(t, torch.nan), t.log() + 1 - x) * g


def test_no_second_derivative_is_judged_where_a_first_one_is_not_finite():
    def divergence(input, target, reduction="mean", log_target=False):
        if log_target or input.shape != target.shape:
            raise NotImplementedError
        losses = OpenAtZero.apply(input, target)
        if reduction == "batchmean":
            return losses.sum() / input.shape[0]
        return losses if reduction == "none" else getattr(losses, reduction)()

    cell = verdict("kl_div", divergence, "second-order")
    assert cell.verdict == "conforms", cell.reason


def test_an_empty_tensor_needs_no_gradient():
    def without_graph_of_nothing(input, target, reduction="mean"):
        input, target = (x if x.numel() else x.detach() for x in (input, target))
        return torch.nn.functional.mse_loss(input, target, reduction=reduction)

    assert verdict("mse_loss", without_graph_of_nothing, "gradient").verdict == "conforms"


def constant_weight(input, target, reduction="mean", weight=None):
    weight = None if weight is None else weight.detach()
    return torch.nn.functional.l1_loss(input, target, reduction=reduction, weight=weight)


def constant_divisor(input, target, reduction="mean", weight=None):
    if weight is None or reduction != "mean":
        return torch.nn.functional.l1_loss(input, target, reduction=reduction, weight=weight)
    return ((input - target).abs() * weight).sum() / weight.detach().sum()


@torch.no_grad()
def without_gradients(input, target, reduction="mean", weight=None):
    return torch.nn.functional.l1_loss(input, target, reduction=reduction, weight=weight)


@pytest.mark.parametrize(
    ("loss", "target", "want"),
    [
        ("l1_loss", without_gradients, "conforms"),
        ("l1_loss", constant_weight, "deviates"),
        ("l1_loss", constant_divisor, "deviates"),
        ("l1_loss", torch.nn.functional.l1_loss, "conforms"),
        ("mse_loss", torch.nn.functional.mse_loss, "conforms"),
        ("huber_loss", torch.nn.functional.huber_loss, "conforms"),
        ("binary_cross_entropy", torch.nn.functional.binary_cross_entropy, "conforms"),
    ],
)
def test_the_gradient_by_an_adjustable_weight_is_judged(loss, target, want):
    cell = verdict(loss, target, "neutral-weight")
    assert cell.verdict == want, cell.reason


@torch.library.custom_op("lossspec_tests::square", mutates_args=())
def square(x: torch.Tensor) -> torch.Tensor:
    """Square a tensor by an operation without a fake kernel, so that no call of it compiles."""
    return x * x


def test_a_loss_that_never_compiles_is_unsupported_under_compiled_refusal():
    def uncompilable(input, target, reduction="mean"):
        if reduction not in ("none", "mean", "sum"):
            raise ValueError(reduction)
        losses = square(input - target)
        return losses if reduction == "none" else getattr(losses, reduction)()

    cell = verdict("mse_loss", uncompilable, "compiled-refusal")
    assert cell.verdict == "unsupported"
    assert "it does not work with torch.compile" in cell.reason


# === second derivatives ====================================================================


def second_derivatives(loss, count=24):
    """Yield the exact second derivatives of some small cases of a loss."""
    profile = replace(PROFILES["quick"], examples=count, even=True)
    for solved in stream(loss, profile, 0):
        case = solved.case
        roles = loss.roles(loss.form(case.form))
        names = [n for n in case.tensors if roles[n].differentiable and not roles[n].integer]
        numbers = sum(case.tensors[n].size for n in case.tensors)
        if case.dtype in ("float32", "float64") and numbers <= 60:
            rng = np.random.default_rng(0)
            along = {n: rng.uniform(1, 2, case.tensors[n].shape) for n in names}
            found = solve_second(solved.expected, loss, case.reduction, along)
            yield from (bounded.exact for bounded in (found or {}).values())


@pytest.mark.filterwarnings("ignore:Output seems independent")  # autograd, of a second derivative
@pytest.mark.parametrize("loss", [*catalogue().values(), PINBALL], ids=lambda loss: loss.name)
def test_a_loss_is_declared_piecewise_linear_where_its_second_derivatives_are_0(loss):
    curved = any((exact[np.isfinite(exact)] != 0).any() for exact in second_derivatives(loss))
    assert loss.piecewise_linear is not curved
    judged = curved and loss.differentiable_twice
    assert clauses()["second-order"].applies(loss, "function") is judged


class CurvedBelow(torch.autograd.Function):
    """The gradient of smooth_l1_loss, whose own derivative is 1 / beta below an end and then 0."""

    @staticmethod
    def forward(ctx, difference, beta, end):
        ctx.save_for_backward(difference)
        ctx.beta, ctx.end = beta, end
        return (difference / beta).clamp(-1, 1)

    @staticmethod
    def backward(ctx, upstream):
        (difference,) = ctx.saved_tensors
        return upstream * (difference.abs() < ctx.end) / ctx.beta, None, None


class WithCurvedBelow(torch.autograd.Function):
    """smooth_l1_loss of a difference, with that gradient."""

    @staticmethod
    def forward(ctx, difference, beta, end):
        ctx.save_for_backward(difference)
        ctx.beta, ctx.end = beta, end
        return F.smooth_l1_loss(difference, difference * 0, reduction="none", beta=beta)

    @staticmethod
    def backward(ctx, upstream):
        (difference,) = ctx.saved_tensors
        return upstream * CurvedBelow.apply(difference, ctx.beta, ctx.end), None, None


@pytest.mark.parametrize(
    "end",
    [lambda beta: min(1.0, beta), lambda beta: math.inf],
    ids=["curved below 1 only", "curved in the linear piece too"],
)
def test_second_derivatives_are_judged_in_every_piece(end):
    def loss(input, target, reduction="mean", beta=1.0):
        if beta <= 0:
            return F.smooth_l1_loss(input, target, reduction=reduction, beta=beta)
        losses = WithCurvedBelow.apply(input - target, beta, end(beta))
        return losses if reduction == "none" else getattr(losses, reduction)()

    found = lossspec.check(
        "smooth_l1_loss", loss, profile="standard", clauses=["gradient", "second-order"]
    )
    assert {cell.clause: cell.verdict for cell in found} == {
        "gradient": Verdict.CONFORMS,
        "second-order": Verdict.DEVIATES,
    }
