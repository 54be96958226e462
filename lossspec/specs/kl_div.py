"""Kullback-Leibler divergence of target probabilities from predicted log-probabilities."""

from lossspec.maths import exp, times, x_log_x
from lossspec.spec.loss import Example, Form, Loss
from lossspec.spec.parameters import switch
from lossspec.spec.roles import LogProbability, Probability


def define(input, target, log_target):
    """Return y (log y - x), where y is the target, or its exponential with `log_target`."""
    if log_target:
        return exp(target) * (target - input)
    return x_log_x(target) - times(target, input)


SHAPES = ("(*), (*) -> (*)",)

spec = Loss(
    name="kl_div",
    module="KLDivLoss",
    summary="The pointwise Kullback-Leibler divergence of the target probability y from the"
    " log-probability x.",
    formula=r"\ell(x, y) = y\,(\log y - x)",
    source="https://docs.pytorch.org/docs/stable/generated/torch.nn.KLDivLoss.html",
    define=define,
    deprecated_reductions=True,
    forms=(
        Form(
            name="target",
            fixed={"log_target": False},
            shapes=SHAPES,
            tensors={"input": LogProbability(), "target": Probability(learned=False)},
        ),
        Form(
            name="log target",
            fixed={"log_target": True},
            shapes=SHAPES,
            tensors={"input": LogProbability(), "target": LogProbability(learned=False)},
        ),
    ),
    parameters={
        "log_target": switch(
            False, doc="Whether the target holds log-probabilities instead of probabilities."
        )
    },
    reductions=("mean", "sum", "none", "batchmean"),
    examples=(
        Example(
            form="target",
            arguments={"input": [-0.69314718056, -1.38629436112], "target": [0.25, 0.75]},
            reduction="sum",
            value=0.6507,
            source="worked by hand, input = log [1/2, 1/4]: (log 1/2) / 4 + 3 (log 3) / 4",
        ),
        Example(
            form="log target",
            arguments={
                "input": [-0.69314718056, -1.38629436112],
                "target": [-1.38629436112, -0.287682072452],
            },
            parameters={"log_target": True},
            reduction="sum",
            value=0.6507,
            source="the same, with target = log [1/4, 3/4]",
        ),
    ),
)
