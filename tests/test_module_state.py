"""The state of a module: buffers, numbers, copies and its text."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lossspec
from lossspec.clauses import clauses
from lossspec.clauses.trial import Trial
from lossspec.execution.implementation import LossUnderTest
from lossspec.judging.deviation import deviation_of
from lossspec.judging.profiles import PROFILES
from lossspec.judging.stream import stream
from lossspec.report.verdict import Verdict
from lossspec.spec.catalogue import find


def judged(loss, target, clause):
    (cell,) = lossspec.check(loss, target, clauses=[clause], profile="quick")
    return cell


class TrainedWeight(nn.CrossEntropyLoss):
    """The weight is a parameter, which an optimizer changes."""

    def __init__(self, weight=None, ignore_index=-100, reduction="mean", label_smoothing=0.0):
        super().__init__(
            ignore_index=ignore_index, reduction=reduction, label_smoothing=label_smoothing
        )
        del self.weight
        self.weight = None if weight is None else nn.Parameter(weight.detach())


class UnsavedWeight(nn.NLLLoss):
    """The weight is a buffer that the state_dict leaves out."""

    def __init__(self, weight=None, ignore_index=-100, reduction="mean"):
        super().__init__(ignore_index=ignore_index, reduction=reduction)
        self.register_buffer("weight", weight, persistent=False)


class OtherName(nn.MultiLabelSoftMarginLoss):
    """The state_dict has the weight under another name."""

    def __init__(self, weight=None, reduction="mean"):
        super().__init__(reduction=reduction)
        self.register_buffer("class_weight", weight)

    def forward(self, input, target):
        return F.multilabel_soft_margin_loss(
            input, target, weight=self.class_weight, reduction=self.reduction
        )


class SavedNumber(nn.HuberLoss):
    """Delta is a buffer."""

    def __init__(self, reduction="mean", delta=1.0):
        super().__init__(reduction=reduction, delta=delta)
        del self.delta
        self.register_buffer("delta", torch.tensor(delta, dtype=torch.float64))

    def forward(self, input, target):
        return F.huber_loss(input, target, reduction=self.reduction, delta=float(self.delta))


class CachedWeight(nn.MultiMarginLoss):
    """A loaded state_dict does not reach the copy of the weight that the call uses."""

    def __init__(self, p=1, margin=1.0, weight=None, reduction="mean"):
        super().__init__(p, margin, weight, reduction=reduction)
        self.used = None if weight is None else weight.clone()

    def forward(self, input, target):
        return F.multi_margin_loss(
            input, target, self.p, self.margin, self.used, reduction=self.reduction
        )


class ConvertedNumber(nn.GaussianNLLLoss):
    """Eps is a tensor that `.to(dtype)` rounds."""

    def __init__(self, *, full=False, eps=1e-6, reduction="mean"):
        super().__init__(full=full, eps=eps, reduction=reduction)
        del self.eps
        self.register_buffer("eps", torch.tensor(eps, dtype=torch.float64), persistent=False)

    def forward(self, input, target, var):
        return F.gaussian_nll_loss(
            input, target, var, full=self.full, eps=float(self.eps), reduction=self.reduction
        )


class SharedCopy(nn.CrossEntropyLoss):
    """A deep copy has the same tensors as the original."""

    def __deepcopy__(self, memo):
        return copy.copy(self)


class NoShallowCopy(nn.HingeEmbeddingLoss):
    """copy.copy raises."""

    def __copy__(self):
        raise TypeError("not copyable")


class NoText(nn.TripletMarginLoss):
    """The text of the module names an attribute that does not exist."""

    def extra_repr(self):
        return f"margin={self.margn}"


class NoGraph(nn.AdaptiveLogSoftmaxWithLoss):
    """log_prob is meant for inference only."""

    @torch.no_grad()
    def log_prob(self, input):
        return super().log_prob(input)


class HeadReset(nn.AdaptiveLogSoftmaxWithLoss):
    """reset_parameters leaves out the tail."""

    def reset_parameters(self):
        self.head.reset_parameters()


class DoubleHead(nn.AdaptiveLogSoftmaxWithLoss):
    """The constructor's dtype reaches the head only."""

    def __init__(self, *given, dtype=None, **more):
        super().__init__(*given, **more)
        self.head.to(dtype)


class KeptLayer(nn.AdaptiveLogSoftmaxWithLoss):
    """Evaluation mode keeps a copy of the head, which later changes of the head do not reach."""

    def forward(self, input, target):
        if self.training:
            return super().forward(input, target)
        if "kept" not in vars(self):
            self.__dict__["kept"] = copy.deepcopy(self).train()
        return self.kept(input, target)


class PlainWeight(nn.LinearCrossEntropyLoss):
    """The weight is an attribute that `state_dict` and `.to` leave out."""

    def __init__(self, *args, weight=None, **options):
        super().__init__(*args, weight=weight, **options)
        del self.weight
        self.weight = weight


class KeptWeight(nn.LinearCrossEntropyLoss):
    """The constructor keeps a reference to the weight, which another parameter does not replace."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.kept = (self.linear.weight,)

    def forward(self, input, target):
        made, self.linear.weight = self.linear.weight, self.kept[0]
        try:
            return super().forward(input, target)
        finally:
            self.linear.weight = made


class BiasByDefault(nn.LinearCrossEntropyLoss):
    """The layer has a bias unless it is turned off."""

    def __init__(self, *args, bias=True, **options):
        super().__init__(*args, bias=bias, **options)


class ExtraParameter(nn.AdaptiveLogSoftmaxWithLoss):
    """An optimizer sees a parameter that the loss does not have."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.scale = nn.Parameter(torch.ones(()))

    def state_dict(self, *args, **options):
        found = super().state_dict(*args, **options)
        del found["scale"]
        return found


class HiddenDistance(nn.Module):
    """The distance is in a dictionary, where torch does not see a module."""

    def __init__(self, *, distance_function=None, margin=1.0, swap=False, reduction="mean"):
        super().__init__()
        self.options = {"distance_function": distance_function, "margin": margin, "swap": swap}
        self.reduction = reduction

    def forward(self, anchor, positive, negative):
        return F.triplet_margin_with_distance_loss(
            anchor, positive, negative, **self.options, reduction=self.reduction
        )


ADAPTIVE = "adaptive_log_softmax_with_loss"
DISTANCE = "triplet_margin_with_distance_loss"
WRONG = [
    (ADAPTIVE, NoGraph, "every-class", "log_prob has no graph"),
    (ADAPTIVE, HeadReset, "reset-parameters", "the parameters that reset_parameters keeps"),
    (ADAPTIVE, DoubleHead, "constructed-in-dtype", "the dtype of tail.0.0.weight"),
    (ADAPTIVE, KeptLayer, "evaluation-mode", "after the parameters changed"),
    (ADAPTIVE, ExtraParameter, "state-dict", "the parameters of the module"),
    ("linear_cross_entropy", PlainWeight, "state-dict", "the names in the state_dict"),
    ("linear_cross_entropy", BiasByDefault, "state-dict", "the names in the state_dict"),
    ("linear_cross_entropy", KeptWeight, "state-dict", "the loaded state (assign=True)"),
    ("linear_cross_entropy", PlainWeight, "moved-to-dtype", "the dtype after .to"),
    (DISTANCE, HiddenDistance, "registered", "with distance_function as a module"),
    ("cross_entropy", TrainedWeight, "state-dict", "the parameters of the module"),
    ("nll_loss", UnsavedWeight, "state-dict", "the names in the state_dict"),
    ("multilabel_soft_margin_loss", OtherName, "state-dict", "the names in the state_dict"),
    ("huber_loss", SavedNumber, "state-dict", "the names in the state_dict"),
    ("multi_margin_loss", CachedWeight, "state-dict", "a module with the loaded state"),
    ("gaussian_nll_loss", ConvertedNumber, "moved-to-dtype", "and back"),
    ("cross_entropy", SharedCopy, "pickled", "after the tensors of the original changed"),
    ("hinge_embedding_loss", NoShallowCopy, "pickled", "copy.copy raised"),
    ("triplet_margin_loss", NoText, "representation", "repr raised"),
]


@pytest.mark.parametrize(
    ("loss", "target", "clause", "what"),
    WRONG,
    ids=[f"{row[1].__name__}-{row[2]}" for row in WRONG],
)
def test_a_module_with_a_wrong_state_is_found(loss, target, clause, what):
    cell = judged(loss, target, clause)
    assert cell.verdict is Verdict.DEVIATES
    assert what in cell.reason


class Wrapped(nn.Module):
    """A module that holds the loss of torch."""

    def __init__(self, weight=None, ignore_index=-100, reduction="mean"):
        super().__init__()
        self.inner = nn.NLLLoss(weight, ignore_index=ignore_index, reduction=reduction)

    def forward(self, input, target):
        return self.inner(input, target)


@pytest.mark.parametrize(
    ("loss", "target", "clause"),
    [
        (ADAPTIVE, nn.AdaptiveLogSoftmaxWithLoss, "every-class"),
        (ADAPTIVE, nn.AdaptiveLogSoftmaxWithLoss, "reset-parameters"),
        (ADAPTIVE, nn.AdaptiveLogSoftmaxWithLoss, "constructed-in-dtype"),
        ("linear_cross_entropy", nn.LinearCrossEntropyLoss, "constructed-in-dtype"),
        (ADAPTIVE, nn.AdaptiveLogSoftmaxWithLoss, "evaluation-mode"),
        (DISTANCE, nn.TripletMarginWithDistanceLoss, "registered"),
    ],
)
def test_a_right_module_with_parameters_conforms(loss, target, clause):
    assert judged(loss, target, clause).verdict is Verdict.CONFORMS


@pytest.mark.parametrize("clause", ["state-dict", "pickled", "moved-to-dtype", "representation"])
@pytest.mark.parametrize(
    ("loss", "target"),
    [
        ("binary_cross_entropy_with_logits", nn.BCEWithLogitsLoss),
        ("poisson_nll_loss", nn.PoissonNLLLoss),
        ("nll_loss", Wrapped),
        ("linear_cross_entropy", nn.LinearCrossEntropyLoss),
        (ADAPTIVE, nn.AdaptiveLogSoftmaxWithLoss),
    ],
)
def test_a_right_module_conforms(loss, target, clause):
    assert judged(loss, target, clause).verdict is Verdict.CONFORMS


class RoundsByLayout(nn.LinearCrossEntropyLoss):
    """The product of a weight that is not contiguous is rounded in another way."""

    def forward(self, input, target):
        value = super().forward(input, target)
        weight = self.linear.weight
        return value if weight.is_contiguous() else value * (1 + torch.finfo(value.dtype).eps)


@pytest.mark.filterwarnings("ignore:linear_cross_entropy")  # torch warns of ignored options
@pytest.mark.parametrize("clause", ["value", "state-dict", "pickled", "moved-to-dtype"])
def test_a_layer_may_round_by_the_layout_of_its_weight(clause):
    loss = find("linear_cross_entropy")
    drawn = [
        solved
        for solved in stream(loss, PROFILES["quick"], 0, ("float32",))
        if "linear_weight" in solved.case.layouts and solved.case.form == "class indices"
    ]
    assert drawn
    for solved in drawn:
        trial = Trial(LossUnderTest("mine", loss, "class", RoundsByLayout), solved)
        assert deviation_of(clauses()[clause], trial) is None
