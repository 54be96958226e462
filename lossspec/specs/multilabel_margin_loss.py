"""Multi-label margin loss: the classes of a sample should lead all other classes by 1."""

import numpy as np

from lossspec.maths import pick, positive_part, repeated, total, where
from lossspec.spec.loss import AnySize, Example, Form, Loss, Refusal
from lossspec.spec.roles import ClassIndex, Logit


def define(input, target):
    """Return (1 / C) Σ max(0, 1 - (x_j - x_i)) over listed classes j and other classes i."""
    classes = input.shape[-1]
    listed = np.logical_and.accumulate(target >= 0, axis=-1)  # the entries before the first -1
    label = listed[..., None] & (target[..., None] == np.arange(classes))  # entry j is class i
    other = ~label.any(axis=-2, keepdims=True)
    x = input[..., None, :]
    gap = positive_part(1 - (repeated(pick(x, target), classes) - x))
    return total(total(where(listed[..., None] & other, gap, 0 * x))) / classes


def settle(rng, tensors, parameters):
    """End each list with -1 at a random place, and put more -1 after some of the ends."""
    target = tensors["target"]
    column = np.arange(target.shape[-1])
    end = rng.integers(0, target.shape[-1] + 1, (2, *target.shape[:-1], 1))
    target[(column == end[0]) | ((column > end[0]) & (column >= end[1]))] = -1


def shorter(tensors, parameters):
    """Remove the last entry of each list of a valid call."""
    if tensors["target"].shape[-1] < 2:
        return False
    tensors["target"] = tensors["target"][..., :-1]
    return True


spec = Loss(
    name="multilabel_margin_loss",
    module="MultiLabelMarginLoss",
    summary="How far the lead of each class listed in y over each class not listed falls below 1,"
    " summed and divided by the number of classes. The list ends at the first -1.",
    formula=r"\ell(x, y) = \frac{1}{C} \sum_{j} \sum_{i \notin y} \max(0,\; 1 - (x_{y_j} - x_i))",
    source="https://docs.pytorch.org/docs/stable/generated/torch.nn.MultiLabelMarginLoss.html",
    define=define,
    deprecated_reductions=True,
    forms=(
        Form(
            shapes=("(N, C), (N, C) -> (N)", "(C), (C) -> ()"),
            tensors={"input": Logit(), "target": ClassIndex(ends=-1, tolerated=())},
            settle=settle,
            # Few classes, since the definition makes an array of all pairs of them.
            sizes={"C": AnySize((3, 4, 2, 1, 5, 7, 33))},
        ),
    ),
    shift_invariant=("input",),
    refusals=(Refusal(says="the target has fewer entries than there are classes", breaks=shorter),),
    piecewise_linear=True,
    examples=(
        Example(
            arguments={"input": [[0.1, 0.2, 0.4, 0.8]], "target": [[3, 0, -1, 1]]},
            value=0.85,
            source="torch.nn.MultiLabelMarginLoss: (1.1 + 1.3 + 0.4 + 0.6) / 4",
        ),
        Example(
            arguments={"input": [[0.1, 0.2, 0.4, 0.8]], "target": [[-1, 3, 0, 1]]},
            value=0.0,
            source="worked by hand: the list is empty",
        ),
    ),
)
