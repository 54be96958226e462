"""Hinge embedding loss: the distance of a similar pair, the missing margin of a dissimilar one."""

from math import inf

from lossspec.maths import positive_part, where
from lossspec.spec.loss import Example, Form, Loss
from lossspec.spec.parameters import number
from lossspec.spec.roles import Real, Sign


def define(input, target, margin):
    """Return x for y = 1, and max(0, m - x) for y = -1."""
    return where(target == 1, input, positive_part(margin - input))


spec = Loss(
    name="hinge_embedding_loss",
    module="HingeEmbeddingLoss",
    summary="The distance x for a similar pair (y = 1). For a dissimilar pair (y = -1), how far x"
    " falls below the margin m.",
    formula=r"\ell(x, y) = \begin{cases} x & y = 1 \\ \max(0, m - x) & y = -1 \end{cases}",
    source="https://docs.pytorch.org/docs/stable/generated/torch.nn.HingeEmbeddingLoss.html",
    define=define,
    deprecated_reductions=True,
    forms=(Form(shapes=("(*), (*) -> (*)",), tensors={"input": Real(), "target": Sign()}),),
    parameters={
        "margin": number(
            *(1.0, 0.0, 0.3, 2.5, -0.5, 1000.0),
            doc="The distance above which a dissimilar pair has loss 0.",
        )
    },
    piecewise_linear=True,
    examples=(
        Example(
            arguments={"input": [0.5, 0.25, 3.0], "target": [1.0, -1.0, -1.0]},
            value=0.4167,
            source="worked by hand: (0.5 + 0.75 + 0) / 3",
        ),
        Example(
            arguments={"input": [inf, 0.5], "target": [-1.0, 1.0]},
            value=0.25,
            source="worked by hand: (max(0, 1 - inf) + 0.5) / 2",
        ),
    ),
)
