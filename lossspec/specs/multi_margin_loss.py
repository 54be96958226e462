"""Multi-class margin loss: the target class should lead every other class by a margin."""

from lossspec.maths import one_hot, pick, positive_part, repeated, total
from lossspec.spec.loss import Example, Form, Loss, Refusal
from lossspec.spec.parameters import Parameter, number
from lossspec.spec.roles import ClassIndex, Logit, Weight


def define(input, target, p, margin, weight):
    """Return (w_t / C) Σ max(0, m - x_t + x_i)^p over the classes i other than t."""
    classes = input.shape[-1]
    others = 1 - one_hot(target, classes, like=input)
    gap = positive_part(margin - repeated(pick(input, target), classes) + input)
    return pick(weight, target) * total(others * gap**p) / classes


def two_dimensional(tensors, parameters):
    """Give the weight of a valid call a second axis."""
    if "weight" not in tensors:
        return False
    tensors["weight"] = tensors["weight"][None]
    return True


spec = Loss(
    name="multi_margin_loss",
    module="MultiMarginLoss",
    summary="How far the lead of class t over each other class falls below the margin m, to the"
    " power p, summed and divided by the number of classes.",
    formula=r"\ell(x, t) = \frac{w_t}{C} \sum_{i \ne t} \max(0,\; m - x_t + x_i)^p",
    source="https://docs.pytorch.org/docs/stable/generated/torch.nn.MultiMarginLoss.html",
    define=define,
    deprecated_reductions=True,
    forms=(
        Form(
            shapes=("(N, C), (N) -> (N)", "(C), () -> ()"),
            tensors={"input": Logit(), "target": ClassIndex()},
        ),
    ),
    options={
        "weight": Weight(
            shape="(C)", doc="Factor for each class; the mean still divides by the batch size."
        )
    },
    parameters={
        "p": Parameter(
            default=1, values=(1, 2), refused=(0, 3, -1), doc="The power of each term: 1 or 2."
        ),
        "margin": number(
            *(1.0, 0.0, 0.25, 2.5, -0.5, 100.0),
            doc="The lead over a class above which its term is 0.",
        ),
    },
    shift_invariant=("input",),
    refusals=(Refusal(says="the weight has two axes", breaks=two_dimensional),),
    examples=(
        Example(
            arguments={"input": [[0.1, 0.2, 0.4, 0.8]], "target": [3]},
            value=0.325,
            source="torch.nn.MultiMarginLoss: (0.3 + 0.4 + 0.6) / 4",
        ),
        Example(
            arguments={"input": [[0.1, 0.2, 0.4, 0.8]], "target": [3]},
            parameters={"p": 2},
            value=0.1525,
            source="worked by hand: (0.09 + 0.16 + 0.36) / 4",
        ),
    ),
)
