"""Margin ranking loss: one of two scores should exceed the other by a margin."""

from lossspec.maths import positive_part
from lossspec.spec.loss import Example, Form, Loss, Symmetry
from lossspec.spec.parameters import number
from lossspec.spec.roles import Real, Sign


def define(input1, input2, target, margin):
    """Return max(0, -y (x₁ - x₂) + m)."""
    return positive_part(-target * (input1 - input2) + margin)


spec = Loss(
    name="margin_ranking_loss",
    module="MarginRankingLoss",
    summary="How far the first score falls short of exceeding the second by the margin m (y = 1),"
    " or the second of exceeding the first (y = -1).",
    formula=r"\ell(x_1, x_2, y) = \max(0, -y\,(x_1 - x_2) + m)",
    source="https://docs.pytorch.org/docs/stable/generated/torch.nn.MarginRankingLoss.html",
    define=define,
    deprecated_reductions=True,
    forms=(
        Form(
            shapes=("(N), (N), (N) -> (N)", "(), (), () -> ()"),
            tensors={"input1": Real(), "input2": Real(), "target": Sign()},
        ),
    ),
    parameters={
        "margin": number(
            *(0.0, 0.3, 1.0, 2.5, -0.5, 1000.0), doc="The lead above which the loss is 0."
        )
    },
    symmetries=(
        Symmetry(
            says="the inputs swapped, and the target negated",
            maps={
                "input1": ("input2", 1, 0),
                "input2": ("input1", 1, 0),
                "target": ("target", -1, 0),
            },
        ),
    ),
    shift_invariant=("input1", "input2"),
    piecewise_linear=True,
    examples=(
        Example(
            arguments={
                "input1": [-1.1109, 0.1187, 0.9441],
                "input2": [0.9284, -0.3707, -0.7504],
                "target": [-1.0, 1.0, -1.0],
            },
            value=0.5648,
            source="worked by hand: (0 + 0 + 1.6945) / 3",
        ),
    ),
)
