"""Soft Dice loss: how little the predicted pixels of a whole batch overlap with the true ones."""

from lossspec.maths import total
from lossspec.spec import Binary, Example, Form, Loss, Probability, number


def define(input, target, smooth):
    """Return 1 - (2 Σ p y + s) / (Σ p + Σ y + s), summed over all pixels of the batch."""
    overlap = total(input * target, (-2, -1))
    size = total(input, (-2, -1)) + total(target, (-2, -1))
    return 1 - (2 * overlap + smooth) / (size + smooth)


spec = Loss(
    name="dice_loss",
    module=None,
    summary="One minus the Dice coefficient of the predicted probabilities p and the mask y, over"
    " all D pixels of all images of the batch.",
    formula=r"\ell(p, y) = 1 - \frac{2 \sum_{n,d} p_{nd}\,y_{nd} + s}"
    r"{\sum_{n,d} p_{nd} + \sum_{n,d} y_{nd} + s}",
    source="https://arxiv.org/abs/1606.04797",
    define=define,
    forms=(
        Form(
            shapes=("(N, D), (N, D) -> ()",), tensors={"input": Probability(), "target": Binary()}
        ),
    ),
    parameters={
        "smooth": number(
            *(1.0, 0.3, 1e-3), refused=(-1.0,), doc="Added above and below the fraction; above 0."
        ),
    },
    reductions=("mean",),
    examples=(
        Example(
            arguments={"input": [[1.0, 0.5], [0.5, 0.0]], "target": [[1.0, 0.0], [1.0, 0.0]]},
            value=0.2,
            source="worked by hand: 1 - (2 · 1.5 + 1) / (2 + 2 + 1)",
        ),
    ),
)
