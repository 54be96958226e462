"""Pinball loss, whose minimum is a quantile of the targets."""

from lossspec.maths import maximum
from lossspec.spec import Example, Form, Loss, Real, number


def define(input, target, quantile):
    """Return max(τ (y - x), (τ - 1) (y - x))."""
    error = target - input
    return maximum(quantile * error, (quantile - 1) * error)


spec = Loss(
    name="pinball_loss",
    module=None,
    summary="The distance of the prediction x from the target y, times τ if x is below y and 1 - τ"
    " if it is above.",
    formula=r"\ell(x, y) = \max(\tau\,(y - x),\; (\tau - 1)\,(y - x))",
    source="https://scikit-learn.org/stable/modules/model_evaluation.html#pinball-loss",
    define=define,
    forms=(
        Form(shapes=("(*), (*) -> (*)",), tensors={"input": Real(), "target": Real(learned=False)}),
    ),
    parameters={
        "quantile": number(
            *(0.5, 0.1, 0.75, 0.99), refused=(-0.1, 1.1), doc="The quantile τ, in [0, 1]."
        ),
    },
    piecewise_linear=True,
    examples=(
        Example(
            arguments={"input": [1.0, 4.0], "target": [2.0, 2.0]},
            parameters={"quantile": 0.75},
            value=0.625,
            source="worked by hand: (0.75 · 1 + 0.25 · 2) / 2",
        ),
    ),
)
